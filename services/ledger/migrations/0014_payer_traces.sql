-- A payer's payment that is told by an 835 and by FHIR: both name it by its trace (TRN02, paymentIdentifier).

-- By which formats a receipt was told, and under which name there. A receipt is told once in each: payers use a trace
-- again, and then one format has several payments of it.
create table payer_trace (
    company_id uuid not null,
    trace_number text not null,
    told_by text not null check (told_by in ('x12', 'fhir')),
    payment_id uuid not null,
    told_key text not null,
    primary key (company_id, trace_number, told_by, payment_id),
    foreign key (company_id, payment_id) references payment (company_id, payment_id)
);
create index payer_trace_payment on payer_trace (company_id, payment_id);

alter table payer_trace enable row level security, force row level security;
create policy service on payer_trace to ledger_app using (true) with check (true);
create policy reader on payer_trace for select to ledger_reader
    using (company_id = (select nullif(current_setting('app.company', true), '')::uuid));
grant select on payer_trace to ledger_reader;
grant select, insert on payer_trace to ledger_app;

-- What was posted before: receipts of 835s by their payment key, a hash; those of FHIR by their document.
insert into payer_trace
select t.company_id, r.check_number, t.told_by, t.payment_id, t.told_key from (
    select company_id, payment_id, 'x12' as told_by, payment_key as told_key from remittance
    where payment_key ~ '^[0-9a-f]{64}$'
    union all
    select company_id, document_id, 'fhir', source || ' ' || external_id from feed_document
    where kind = 'payment' and starts_with(source, 'fhir:') and starts_with(external_id, 'PaymentReconciliation/')
        and document_id is not null
) t
cross join lateral (
    select check_number, amount_cents from payment_revision r where r.company_id = t.company_id and r.payment_id = t.payment_id
    order by r.version limit 1
) r
where r.check_number is not null and r.amount_cents <> 0
on conflict do nothing;
