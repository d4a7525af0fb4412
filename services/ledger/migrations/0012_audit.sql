-- The audit in full (docs/decisions/0015-audit.md): who did and saw what, when, from where; and its seals. Rights, not
-- triggers, keep both append-only: no role may update or delete them.

create table audit (
    id uuid primary key,
    at timestamptz not null,
    action text not null,
    actor_id uuid,
    actor_name text not null,
    subject_id text,
    company_ids uuid[] not null,
    changed text[] not null default '{}',
    request_id text,
    actor_role text,
    address text,
    status smallint,
    shown uuid[] not null default '{}',
    details jsonb not null default '{}'
);
create index audit_companies on audit using gin (company_ids);

-- Which entries are in no chain yet. The sealer asks what is here, never what is newer than what it saw.
create table audit_unsealed (
    place bigint generated always as identity primary key,
    audit_id uuid not null references audit
);

-- A chain a company, written by the sealer (shared/seal.py) behind everything else. `hash` covers all of a seal and the
-- `hash` of the one before; `row_hash` the row that `kind` and `ref` name. What belongs to no company is chained under
-- the id that is all zeros.
create table audit_seal (
    company_id uuid not null,
    seq bigint not null check (seq > 0),
    kind text not null,
    ref text not null,
    row_hash bytea not null,
    prev_hash bytea not null,
    hash bytea not null,
    sealed_at timestamptz not null default now(),
    primary key (company_id, seq),
    unique (kind, ref, company_id)
);

-- The version of each company up to which its postings are sealed.
create table seal_progress (
    company_id uuid primary key,
    version bigint not null
);
alter table seal_progress enable row level security, force row level security;
create policy service on seal_progress to ledger_app using (true) with check (true);

grant select, insert on audit, audit_seal to ledger_app;
grant select, insert, delete on audit_unsealed to ledger_app;
grant select, insert, update on seal_progress to ledger_app;

alter table audit enable row level security, force row level security;
alter table audit_seal enable row level security, force row level security;
create policy service on audit to ledger_app using (true) with check (true);
create policy service on audit_seal to ledger_app using (true) with check (true);
create policy reader on audit for select to ledger_reader
    using ((select nullif(current_setting('app.company', true), '')::uuid) = any (company_ids));
grant select on audit to ledger_reader;
