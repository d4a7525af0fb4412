-- `load_books` (0019) once more: of the lines of remittances, which are wanted to tell what another check repeats, only those
-- of receipts that stand. What a person has reversed as a whole (a check that bounced, or was stopped) has brought no line
-- and taken none back, so the payer may issue it anew. Looked up for each line that is found, and mostly there is none.
-- Takes and returns what it did, so processes of the version before go on with it.
create or replace function load_books(wanted_c uuid[], wanted_k text[], wanted_v json[])
returns table (kind text, company_id uuid, body json)
language plpgsql stable as $$
begin
    return query select 'book', b.company_id, json_build_object(
            'version', b.version, 'writes', b.writes, 'now', t.time_now, 'today', t.today,
            'day_ends', (t.today + 1)::timestamp at time zone d.time_zone, 'npis', d.npis)
        from wanted(wanted_c, wanted_k, wanted_v, 'book') w
        cross join lateral (select * from company_book b where b.company_id = w.c offset 0) b
        cross join lateral (select * from directory_company d where d.company_id = w.c offset 0) d
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
            select * from remittance_line r where r.company_id = w.c and r.line_key = w.v and not exists (
                select from payment v where v.company_id = r.company_id and v.reverses_id = r.payment_id offset 0)
            offset 0) r;
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
        return query select 'payment', p.company_id, row_to_json(p)
        from (
            select array_agg(r.company_id) as c, array_agg(r.payment_id) as v
            from receipts_called(wanted_c, wanted_k, wanted_v) r
        ) x, read_payments(x.c, x.v) p;
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
