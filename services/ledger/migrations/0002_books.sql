-- The books. Money tables are append-only by rights: the service's role may INSERT and SELECT, no more.
-- Every key starts with company_id, and every foreign key is composite, so that no row can point into another company.

-- The company's counter: raised under its row lock in the transaction of each posting, so that
-- (company_id, version) is gapless and in commit order. `writes` counts every write, also of what is no posting (an
-- EMR deletion that came first): whoever decided on an older count decides again. Half-empty pages keep updates in place.
create table company_book (
    company_id uuid primary key,
    version bigint not null default 0,
    writes bigint not null default 0
) with (fillfactor = 50);

create table payer (
    company_id uuid not null,
    payer_id uuid not null,
    code text not null,
    name text not null,
    payer_class text,
    era_payer_ids text[] not null default '{}',
    version bigint not null,
    primary key (company_id, payer_id),
    unique (company_id, code)
);
create index payer_era on payer using gin (era_payer_ids);
create index payer_name on payer (company_id, upper(name));

create table patient (
    company_id uuid not null,
    patient_id uuid not null,
    account_number text not null,
    first_name text not null,
    last_name text not null,
    date_of_birth date not null,
    payer_id uuid,
    version bigint not null,
    primary key (company_id, patient_id),
    unique (company_id, account_number),
    foreign key (company_id, payer_id) references payer (company_id, payer_id)
);
create index patient_name on patient (company_id, upper(last_name), upper(first_name));

create table referring_physician (
    company_id uuid not null,
    referring_physician_id uuid not null,
    npi text not null,
    first_name text not null,
    last_name text not null,
    version bigint not null,
    primary key (company_id, referring_physician_id),
    unique (company_id, npi)
);

-- One act, one company version. What a posting consists of has no foreign key to it: one function inserts all of it in
-- one transaction, and the check would cost a tenth of that function's time.
create table posting (
    company_id uuid not null,
    version bigint not null,
    posting_id uuid not null,
    kind text not null,
    actor_id uuid not null,
    correlation_id text not null,
    posted_at timestamptz not null,
    posting_date date not null,
    primary key (company_id, version)
);

create table charge (
    company_id uuid not null,
    charge_id uuid not null,
    version bigint not null,
    posted_at timestamptz not null,
    source text not null check (source in ('manual', 'emr')),
    external_id text,
    poster_id uuid not null,
    primary key (company_id, charge_id)
);
create index charge_external on charge (company_id, external_id) where external_id is not null;

-- The words of a charge, one row per change; the highest version holds.
create table charge_revision (
    company_id uuid not null,
    charge_id uuid not null,
    version bigint not null,
    state text not null check (state in ('active', 'delayed', 'void')),
    patient_id uuid not null,
    location_id uuid not null,
    payer_id uuid,
    date_of_service date not null,
    procedure_code text not null,
    modifiers text[] not null,
    units integer not null check (units > 0),
    diagnosis_codes text[] not null,
    amount_cents bigint not null check (amount_cents >= 0),
    primary key (company_id, charge_id, version),
    foreign key (company_id, charge_id) references charge (company_id, charge_id),
    foreign key (company_id, patient_id) references patient (company_id, patient_id),
    foreign key (company_id, location_id) references directory_location (company_id, location_id),
    foreign key (company_id, payer_id) references payer (company_id, payer_id)
);
create index charge_revision_patient on charge_revision (company_id, patient_id, date_of_service);
create index charge_revision_service on charge_revision (company_id, date_of_service);

create table payment (
    company_id uuid not null,
    payment_id uuid not null,
    version bigint not null,
    posted_at timestamptz not null,
    posting_date date not null,
    poster_id uuid not null,
    affiliation text not null check (affiliation in ('practice', 'rcm', 'integration')),
    source text not null check (source in ('manual', 'emr', 'era')),
    external_id text,
    reverses_id uuid,
    refunds_id uuid,
    primary key (company_id, payment_id),
    foreign key (company_id, reverses_id) references payment (company_id, payment_id),
    foreign key (company_id, refunds_id) references payment (company_id, payment_id)
);
create unique index payment_reversed_once on payment (company_id, reverses_id) where reverses_id is not null;
create index payment_refunds on payment (company_id, refunds_id) where refunds_id is not null;

-- The words of a receipt, one row per change; the highest version holds.
create table payment_revision (
    company_id uuid not null,
    payment_id uuid not null,
    version bigint not null,
    amount_cents bigint not null,
    method text not null check (method in ('check', 'cash', 'credit_card', 'eft', 'other')),
    check_number text,
    batch_number text,
    deposit_date date not null,
    location_id uuid,
    payer_id uuid,
    patient_id uuid,
    memo text,
    payment_type text,
    withdrawn boolean not null default false,
    primary key (company_id, payment_id, version),
    foreign key (company_id, payment_id) references payment (company_id, payment_id),
    foreign key (company_id, patient_id) references patient (company_id, patient_id),
    foreign key (company_id, location_id) references directory_location (company_id, location_id),
    foreign key (company_id, payer_id) references payer (company_id, payer_id)
);
create index payment_revision_batch on payment_revision (company_id, batch_number, version);
create index payment_revision_deposit on payment_revision (company_id, deposit_date, version);
create index payment_revision_check on payment_revision (company_id, check_number) where check_number is not null;

-- Double entry in one row: a row cannot be unbalanced (architecture.md, idea 1).
create table transfer (
    company_id uuid not null,
    version bigint not null,
    ordinal integer not null,
    debit text not null,
    credit text not null,
    detail text not null default '',
    charge_id uuid,
    payment_id uuid,
    amount_cents bigint not null check (amount_cents > 0),
    primary key (company_id, version, ordinal),
    foreign key (company_id, charge_id) references charge (company_id, charge_id),
    foreign key (company_id, payment_id) references payment (company_id, payment_id),
    check (debit <> credit),
    check (debit in ('cash', 'unapplied', 'receivable_payer', 'receivable_patient', 'revenue', 'adjustment', 'provider_level')),
    check (credit in ('cash', 'unapplied', 'receivable_payer', 'receivable_patient', 'revenue', 'adjustment', 'provider_level'))
);
create index transfer_charge on transfer (company_id, charge_id) where charge_id is not null;
create index transfer_payment on transfer (company_id, payment_id) where payment_id is not null;

create table batch (
    company_id uuid not null,
    batch_number text not null,
    version bigint not null,
    control_total_cents bigint,
    control_count integer,
    declared_by uuid not null,
    declared_at timestamptz not null,
    primary key (company_id, batch_number, version)
);

-- A key belongs to a company and never expires. Only what was accepted is remembered.
create table idempotency (
    company_id uuid not null,
    key text not null,
    route text not null,
    actor_id uuid not null,
    body_hash bytea not null,
    response text not null,
    primary key (company_id, key)
);

-- The event log, for good, and beside it what is not yet published (shared/outbox.py). Conditions that the relay
-- rests on: the company's row is locked before an outbox row is inserted, and the identity has no CACHE, so the
-- order of outbox_id is the order of versions within a company; the primary key refuses a broken order. No foreign keys:
-- `append_books` alone writes them, both together, for a company whose row it has just locked and raised.
create table event (
    company_id uuid not null,
    first_version bigint not null,
    version bigint not null check (version >= first_version),
    event_id uuid not null,
    type text not null,
    occurred_at timestamptz not null,
    payload text not null,
    primary key (company_id, first_version),
    unique (company_id, version)
);
create table outbox (
    outbox_id bigint generated always as identity primary key,
    company_id uuid not null,
    first_version bigint not null
);
