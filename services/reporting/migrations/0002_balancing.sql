-- Balancing tables, built from the ledger's events only. Every key starts with the company. What is kept for good is
-- append-only by rights: the service runs as `reporting_app`, which may INSERT and SELECT there, no more.

do $$
begin
    if not exists (select from pg_roles where rolname = 'reporting_app') then
        begin
            create role reporting_app nologin;
        exception
            when duplicate_object or unique_violation then
                null;  -- Another database of this cluster was migrated at the same moment.
            when insufficient_privilege then
                raise exception using
                    errcode = 'insufficient_privilege',
                    message = format('the role reporting_app is missing and %s may not create it', current_user),
                    hint = format('As an administrator: create role reporting_app nologin; grant reporting_app to %I;',
                                  current_user);
        end;
    end if;
    if not pg_has_role(current_user, 'reporting_app', 'member') then
        execute format('grant reporting_app to %I', current_user);
    end if;
end
$$;

-- The events themselves: what dedupes, what closes gaps, what a rebuild replays.
create table inbox (
    company_id uuid not null,
    first_version bigint not null,
    version bigint not null,
    event_id uuid not null,
    event_time timestamptz not null,
    received_at timestamptz not null default now(),
    body text not null,
    primary key (company_id, first_version),
    unique (company_id, event_id),
    check (first_version between 1 and version)
);
create index on inbox (company_id, event_time);  -- "as it was known at that moment"

-- The version up to which everything is folded; the tables below are exactly the books at that version. Updated with
-- every batch, so its pages keep room for new row versions.
create table company_progress (
    company_id uuid primary key,
    version bigint not null,
    event_time timestamptz
) with (fillfactor = 50);

-- One line for each part of a receipt that a posting changed, under the receipt's words at that posting.
create table balancing_line (
    company_id uuid not null,
    version bigint not null,
    ordinal integer not null,
    receipt_count smallint not null,
    receipt_version bigint not null,
    posted_at timestamptz not null,
    applied_cents bigint not null,
    adjusted_cents bigint not null,
    provider_level_cents bigint not null,
    unapplied_cents bigint not null,
    posting_date date not null,
    deposit_date date not null,
    payment_id uuid not null,
    poster_id uuid not null,
    location_id uuid,
    payer_id uuid,
    affiliation text collate "C" not null,
    source text collate "C" not null,
    method text collate "C" not null,
    batch_number text collate "C",
    check_number text collate "C",
    part text collate "C" not null check (part in ('applied', 'adjusted', 'provider_level', 'unapplied')),
    patient_id uuid,
    charge_id uuid,
    charge_location_id uuid,
    procedure_code text collate "C",
    group_code text collate "C",
    reason_code text collate "C",
    primary key (company_id, version, ordinal)
);
create index on balancing_line (company_id, posting_date);
create index on balancing_line (company_id, deposit_date);
create index on balancing_line (company_id, poster_id, posting_date);
create index on balancing_line (company_id, poster_id, batch_number);

-- Sums of the lines per day and the words that are asked for most; docs/decisions says what they save. Same column
-- names as the lines, so a query reads either.
create table balancing_posting_day (
    company_id uuid not null,
    posting_date date not null,
    location_id uuid,
    poster_id uuid not null,
    affiliation text collate "C" not null,
    source text collate "C" not null,
    method text collate "C" not null,
    payer_id uuid,
    batch_number text collate "C",
    receipt_count bigint not null,
    applied_cents bigint not null,
    adjusted_cents bigint not null,
    provider_level_cents bigint not null,
    unapplied_cents bigint not null,
    unique nulls not distinct (
        company_id, posting_date, location_id, poster_id, affiliation, source, method, payer_id, batch_number
    )
) with (fillfactor = 80);
create table balancing_deposit_day (
    company_id uuid not null,
    deposit_date date not null,
    location_id uuid,
    poster_id uuid not null,
    affiliation text collate "C" not null,
    source text collate "C" not null,
    method text collate "C" not null,
    payer_id uuid,
    batch_number text collate "C",
    receipt_count bigint not null,
    applied_cents bigint not null,
    adjusted_cents bigint not null,
    provider_level_cents bigint not null,
    unapplied_cents bigint not null,
    unique nulls not distinct (
        company_id, deposit_date, location_id, poster_id, affiliation, source, method, payer_id, batch_number
    )
) with (fillfactor = 80);

-- Names, as states: the posting with the higher version wins.
create table patient_name (
    company_id uuid not null,
    patient_id uuid not null,
    version bigint not null,
    account_number text not null,
    first_name text not null,
    last_name text not null,
    primary key (company_id, patient_id)
);
create table payer (
    company_id uuid not null,
    payer_id uuid not null,
    version bigint not null,
    code text not null,
    name text not null,
    payer_class text,
    primary key (company_id, payer_id)
);

grant select on schema_migration to reporting_app;
grant select, insert on inbox, balancing_line to reporting_app;
grant select, insert, update on company_progress, balancing_posting_day, balancing_deposit_day, patient_name, payer
    to reporting_app;
grant select, insert, update on directory_company, directory_location, directory_user, directory_client,
    directory_progress to reporting_app;
