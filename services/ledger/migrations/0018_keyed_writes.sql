-- The reading end of the write path (0017) once more. What is wanted comes grouped, for each company and kind a JSON list
-- of the values, which only the queries for that kind read (measured for 300 lines of a remittance: 11 ms instead
-- of 16). The functions of 0017 stay for processes of the version before, which go on while this is applied.
-- Every value is looked up by its whole key (`lateral`, `offset 0`). What is planned as a join while tables are small or
-- without statistics reads all rows of the company for each value, and goes on doing so as they grow (measured at
-- 18,000 lines of remittances: 680 ms instead of 1; at 9,000 documents: 15.7 s instead of 0.2 s).

-- What is wanted of one kind, value by value.
create function wanted(wanted_c uuid[], wanted_k text[], wanted_v json[], wanted_kind text)
returns table (c uuid, v text)
language sql immutable as $$
    select w.c, e.v from unnest(wanted_c, wanted_k, wanted_v) as w (c, k, v)
    cross join lateral json_array_elements_text(w.v) as e (v) where w.k = wanted_kind
$$;

-- The documents among what is wanted, by a kind of which each value is a JSON list [source, kind, external id].
create function wanted_documents(wanted_c uuid[], wanted_k text[], wanted_v json[], wanted_kind text)
returns setof feed_document
language sql stable as $$
    select d.* from (
        select w.c, w.v::json as name from wanted(wanted_c, wanted_k, wanted_v, wanted_kind) w offset 0
    ) w
    cross join lateral (
        select * from feed_document d where d.company_id = w.c
            and d.source = w.name ->> 0 and d.kind = w.name ->> 1 and d.external_id = w.name ->> 2
        offset 0) d
$$;

-- The charges among what is wanted, by a kind of which each value is a patient's account number, and by a kind of which
-- each value is the EMR's own number.
create function charges_called(
    wanted_c uuid[], wanted_k text[], wanted_v json[], account_kind text, external_kind text
)
returns table (company_id uuid, charge_id uuid)
language sql stable as $$
    select w.c, r.charge_id from wanted(wanted_c, wanted_k, wanted_v, account_kind) w
    cross join lateral (
        select * from patient p where p.company_id = w.c and p.account_number = w.v offset 0) p
    cross join lateral (
        select * from charge_revision r where r.company_id = p.company_id and r.patient_id = p.patient_id offset 0) r
    union
    select w.c, h.charge_id from wanted(wanted_c, wanted_k, wanted_v, external_kind) w
    cross join lateral (
        select * from charge h where h.company_id = w.c and h.external_id = w.v offset 0) h
$$;

-- Charges with their words now and their balances: sums over transfers, never stored.
create or replace function read_charges(companies uuid[], ids uuid[])
returns table (
    company_id uuid, charge_id uuid, version bigint, posted_at timestamptz, source text, external_id text, poster_id uuid,
    state text, patient_id uuid, location_id uuid, payer_id uuid, date_of_service date, procedure_code text,
    modifiers text[], units integer, diagnosis_codes text[], amount_cents bigint,
    payer_due bigint, patient_due bigint, applied_cents bigint, adjusted_cents bigint, touched_version bigint
)
language sql stable as $$
    select h.company_id, h.charge_id, h.version, h.posted_at, h.source, h.external_id, h.poster_id,
        r.state, r.patient_id, r.location_id, r.payer_id, r.date_of_service, r.procedure_code,
        r.modifiers, r.units, r.diagnosis_codes, r.amount_cents,
        coalesce(t.payer_due, 0)::bigint, coalesce(t.patient_due, 0)::bigint,
        coalesce(t.applied, 0)::bigint, coalesce(t.adjusted, 0)::bigint, greatest(r.version, t.version)
    from unnest(companies, ids) as w (c, v)
    cross join lateral (select * from charge h where h.company_id = w.c and h.charge_id = w.v offset 0) h
    cross join lateral (
        select * from charge_revision r where r.company_id = w.c and r.charge_id = w.v order by r.version desc limit 1
    ) r
    cross join lateral (
        select max(t.version) as version,
            sum(case 'receivable_payer' when t.debit then t.amount_cents when t.credit then -t.amount_cents end) as payer_due,
            sum(case 'receivable_patient' when t.debit then t.amount_cents when t.credit then -t.amount_cents end) as patient_due,
            sum(case 'unapplied' when t.debit then t.amount_cents when t.credit then -t.amount_cents end) as applied,
            sum(case 'adjustment' when t.debit then t.amount_cents when t.credit then -t.amount_cents end) as adjusted
        from transfer t where t.company_id = w.c and t.charge_id = w.v
    ) t
$$;

-- Everything that a batch of commands needs to see, as (kind, company, row). Only the kinds that are wanted are looked
-- for. STABLE: all of it is read in one snapshot, the caller's, so the state is that of one moment; the clock is read
-- after the snapshot was taken.
create function load_books(companies uuid[], wanted_c uuid[], wanted_k text[], wanted_v json[])
returns table (kind text, company_id uuid, body json)
language plpgsql stable as $$
declare
    charge_ids_c uuid[] := '{}';
    charge_ids uuid[] := '{}';
    payment_ids_c uuid[] := '{}';
    payment_ids uuid[] := '{}';
begin
    return query select 'book', b.company_id, json_build_object(
            'version', b.version, 'writes', b.writes, 'now', t.time_now, 'today', t.today,
            'day_ends', (t.today + 1)::timestamp at time zone d.time_zone, 'npis', d.npis)
        from unnest(companies) as c (id)
        cross join lateral (select * from company_book b where b.company_id = c.id offset 0) b
        cross join lateral (select * from directory_company d where d.company_id = c.id offset 0) d
        cross join lateral (
            select c.time_now, (c.time_now at time zone d.time_zone)::date as today
            from (select clock_timestamp() as time_now) c
        ) t;

    if 'key' = any (wanted_k) then
        return query select 'key', i.company_id, row_to_json(i) from wanted(wanted_c, wanted_k, wanted_v, 'key') w
        cross join lateral (
            select * from idempotency i where i.company_id = w.c and i.key = w.v offset 0) i;
    end if;
    if 'location' = any (wanted_k) then
        return query select 'location', l.company_id, row_to_json(l)
        from wanted(wanted_c, wanted_k, wanted_v, 'location') w
        cross join lateral (
            select * from directory_location l where l.company_id = w.c and l.location_id = w.v::uuid offset 0) l;
    end if;
    if 'clinic' = any (wanted_k) then
        return query select 'location', l.company_id, row_to_json(l)
        from wanted(wanted_c, wanted_k, wanted_v, 'clinic') w
        cross join lateral (
            select * from directory_location l where l.company_id = w.c and l.emr_location_id = w.v and l.active offset 0) l;
    end if;
    if wanted_k && array ['payer', 'payer_code', 'payer_name', 'era_payer'] then
        return query select 'payer', p.company_id, row_to_json(p)
        from wanted(wanted_c, wanted_k, wanted_v, 'payer') w
        cross join lateral (
            select * from payer p where p.company_id = w.c and p.payer_id = w.v::uuid offset 0) p
        union all
        select 'payer', p.company_id, row_to_json(p)
        from wanted(wanted_c, wanted_k, wanted_v, 'payer_code') w
        cross join lateral (
            select * from payer p where p.company_id = w.c and p.code = w.v offset 0) p
        union all
        select 'payer', p.company_id, row_to_json(p)
        from wanted(wanted_c, wanted_k, wanted_v, 'payer_name') w
        cross join lateral (
            select * from payer p where p.company_id = w.c and upper(p.name) = upper(w.v) offset 0) p
        union all
        select 'payer', p.company_id, row_to_json(p)
        from wanted(wanted_c, wanted_k, wanted_v, 'era_payer') w
        cross join lateral (
            select * from payer p where p.company_id = w.c and p.era_payer_ids @> array [w.v] offset 0) p;
    end if;
    if 'physician' = any (wanted_k) then
        return query select 'physician', p.company_id, row_to_json(p)
        from wanted(wanted_c, wanted_k, wanted_v, 'physician') w
        cross join lateral (
            select * from referring_physician p where p.company_id = w.c and p.referring_physician_id = w.v::uuid offset 0) p;
    end if;
    if 'npi' = any (wanted_k) then
        return query select 'physician', p.company_id, row_to_json(p)
        from wanted(wanted_c, wanted_k, wanted_v, 'npi') w
        cross join lateral (
            select * from referring_physician p where p.company_id = w.c and p.npi = w.v offset 0) p;
    end if;
    if 'document' = any (wanted_k) then
        return query select 'document', d.company_id, row_to_json(d)
        from wanted_documents(wanted_c, wanted_k, wanted_v, 'document') d;
    end if;
    if 'line' = any (wanted_k) then
        return query select 'line', r.company_id, row_to_json(r)
        from wanted(wanted_c, wanted_k, wanted_v, 'line') w
        cross join lateral (
            select * from remittance_line r where r.company_id = w.c and r.line_key = w.v offset 0) r;
    end if;
    if 'remittance' = any (wanted_k) then
        return query select 'remittance', r.company_id, row_to_json(r)
        from wanted(wanted_c, wanted_k, wanted_v, 'remittance') w
        cross join lateral (
            select * from remittance r where r.company_id = w.c and r.payment_key = w.v offset 0) r;
    end if;
    if 'receipt' = any (wanted_k) then
        return query
        with found as materialized (
            select r.* from wanted(wanted_c, wanted_k, wanted_v, 'receipt') w
            cross join lateral (
                select * from remittance r where r.company_id = w.c and r.payment_key = w.v offset 0) r
        )
        select 'remittance', r.company_id, row_to_json(r) from found r
        union all
        select 'receipt', p.company_id, row_to_json(p)
        from (select array_agg(r.company_id) as c, array_agg(r.payment_id) as v from found r) x,
            read_payments(x.c, x.v, false) p;
    end if;

    if wanted_k && array ['payment', 'remittance', 'document'] then
        select coalesce(array_agg(x.c), '{}'), coalesce(array_agg(x.v), '{}') into payment_ids_c, payment_ids from (
            select w.c, w.v::uuid as v from wanted(wanted_c, wanted_k, wanted_v, 'payment') w
            union
            select r.company_id, r.payment_id from wanted(wanted_c, wanted_k, wanted_v, 'remittance') w
            cross join lateral (
                select * from remittance r where r.company_id = w.c and r.payment_key = w.v offset 0) r
            union
            select d.company_id, d.document_id from wanted_documents(wanted_c, wanted_k, wanted_v, 'document') d
            where d.kind = 'payment' and d.document_id is not null
        ) x;
        return query select 'payment', p.company_id, row_to_json(p) from read_payments(payment_ids_c, payment_ids) p;
    end if;

    if wanted_k && array ['charge', 'payment', 'remittance', 'document', 'account_charges', 'external_charges'] then
        select coalesce(array_agg(x.c), '{}'), coalesce(array_agg(x.v), '{}') into charge_ids_c, charge_ids from (
            select w.c, w.v::uuid as v from wanted(wanted_c, wanted_k, wanted_v, 'charge') w
            union
            select h.company_id, h.charge_id
            from charges_called(wanted_c, wanted_k, wanted_v, 'account_charges', 'external_charges') h
            union
            select d.company_id, d.document_id from wanted_documents(wanted_c, wanted_k, wanted_v, 'document') d
            where d.kind = 'charge' and d.document_id is not null
            union
            select w.c, t.charge_id from unnest(payment_ids_c, payment_ids) as w (c, v)
            cross join lateral (
                select * from transfer t where t.company_id = w.c and t.payment_id = w.v offset 0) t
            where t.charge_id is not null
        ) x;
        return query
        with found as materialized (select * from read_charges(charge_ids_c, charge_ids))
        select 'charge', h.company_id, row_to_json(h) from found h
        union all
        select 'patient', p.company_id, row_to_json(p)
        from (select distinct h.company_id as c, h.patient_id as v from found h) w
        cross join lateral (select * from patient p where p.company_id = w.c and p.patient_id = w.v offset 0) p;
    end if;
    if 'patient' = any (wanted_k) then
        return query select 'patient', p.company_id, row_to_json(p)
        from wanted(wanted_c, wanted_k, wanted_v, 'patient') w
        cross join lateral (
            select * from patient p where p.company_id = w.c and p.patient_id = w.v::uuid offset 0) p;
    end if;
    if 'account' = any (wanted_k) then
        return query select 'patient', p.company_id, row_to_json(p)
        from wanted(wanted_c, wanted_k, wanted_v, 'account') w
        cross join lateral (
            select * from patient p where p.company_id = w.c and p.account_number = w.v offset 0) p;
    end if;
end $$;

-- Beside `load_books`, in the same snapshot: `waits` for each company in which anything waits, and what waits for the
-- charges that a batch brings: of kind 'waiting', a JSON list [source, name]; of kind 'charged_patient', the patient.
create function load_waiting(companies uuid[], wanted_c uuid[], wanted_k text[], wanted_v json[])
returns table (kind text, company_id uuid, body json)
language sql stable as $$
    select 'waits', c.id, null::json from unnest(companies) as c (id)
    cross join lateral (
        select from feed_exception e where e.company_id = c.id and e.state = 'open' and e.waits_name is not null limit 1
    ) e
    union all
    select 'waiting', f.company_id, f.body from (
        select e.company_id, e.exception_id, json_build_object(
            'exception_id', e.exception_id, 'feed_id', e.feed_id, 'item_key', e.item_key, 'command', e.command) as body
        from (
            select w.c, w.v::json ->> 0 as source, w.v::json ->> 1 as name
            from wanted(wanted_c, wanted_k, wanted_v, 'waiting') w
            union
            select p.company_id, '', p.account_number
            from wanted(wanted_c, wanted_k, wanted_v, 'charged_patient') w
            cross join lateral (
                select * from patient p where p.company_id = w.c and p.patient_id = w.v::uuid offset 0) p
        ) n
        cross join lateral (
            select * from feed_exception e where e.company_id = n.c and e.waits_source = n.source
                and e.waits_name = n.name and e.state = 'open' and e.waits_name is not null
            offset 0) e
        order by e.exception_id
    ) f
$$;

-- Beside `load_books`, in the same snapshot: who has told of a trace, or of the receipt of a document, and the receipts
-- with their words: of kind 'trace', the number; of kind 'told', a JSON list [source, kind, external id].
create function load_traces(wanted_c uuid[], wanted_k text[], wanted_v json[])
returns table (kind text, company_id uuid, body json)
language sql stable as $$
    with found as (
        select t.* from wanted(wanted_c, wanted_k, wanted_v, 'trace') w
        cross join lateral (
            select * from payer_trace t where t.company_id = w.c and t.trace_number = w.v offset 0) t
        union
        select t.* from wanted_documents(wanted_c, wanted_k, wanted_v, 'told') d
        cross join lateral (
            select * from payer_trace t where t.company_id = d.company_id and t.payment_id = d.document_id offset 0) t
    )
    select 'trace', f.company_id, row_to_json(f) from found f
    union all
    select 'receipt', p.company_id, row_to_json(p)
    from (select array_agg(company_id) as c, array_agg(payment_id) as v from (
        select distinct company_id, payment_id from found) f) x, read_payments(x.c, x.v, false) p
$$;

-- Beside `load_books`, in the same snapshot: net transfers by charge and payer, of the charges that go by a name of kind
-- 'settled', an account or the EMR's own number. For reversals that do not say what they take back (group CR).
create function load_settled(wanted_c uuid[], wanted_k text[], wanted_v json[])
returns table (kind text, company_id uuid, body json)
language sql stable as $$
    select 'settled', t.company_id, json_build_object('charge_id', t.charge_id, 'payer_id', r.payer_id,
        'debit', t.debit, 'credit', t.credit, 'detail', t.detail, 'cents', sum(t.amount_cents))
    from charges_called(wanted_c, wanted_k, wanted_v, 'settled', 'settled') h
    cross join lateral (
        select * from transfer t where t.company_id = h.company_id and t.charge_id = h.charge_id offset 0) t
    cross join lateral (
        select r.payer_id from payment_revision r where r.company_id = t.company_id and r.payment_id = t.payment_id
        order by r.version desc limit 1
    ) r
    where t.payment_id is not null and r.payer_id is not null
    group by t.company_id, t.charge_id, r.payer_id, t.debit, t.credit, t.detail
$$;

-- What a part of a feed says about claims (0009), each claim looked up by its number.
create or replace function note_claims(
    company uuid, feed uuid, item text, said_by text, said_for text, statements json
)
returns void
language plpgsql volatile as $$
begin
    insert into claim (company_id, claim_id, claim_number)
    select distinct on (s.claim_number) company, s.claim_id, s.claim_number
    from json_to_recordset(statements) as s (claim_id uuid, claim_number text)
    order by s.claim_number
    on conflict do nothing;
    insert into claim_state (company_id, claim_id, statement_key, state, standing, effective_date, source, feed_id,
        item_key, payer, payer_control_number, clearinghouse_number, batch_reference, codes, charge_cents, paid_cents)
    select company, c.claim_id, s.statement_key, s.state, s.standing, coalesce(s.effective_date, current_date), said_by,
        feed, item, said_for, s.payer_control_number, s.clearinghouse_number, s.batch_reference, s.codes,
        s.charge_cents, s.paid_cents
    from json_to_recordset(statements) as s (place integer, claim_number text, statement_key text, state text,
        standing smallint, effective_date date, payer_control_number text, clearinghouse_number text,
        batch_reference text, codes text[], charge_cents bigint, paid_cents bigint)
    cross join lateral (
        select k.claim_id from claim k where k.company_id = company and k.claim_number = s.claim_number offset 0
    ) c
    order by s.place
    on conflict do nothing;
end $$;
