-- The audit in full (docs/decisions/0015-audit.md): who did and saw what, when, from where; and its seals. Rights, not
-- triggers, keep both append-only: no role may update or delete them.

alter table audit
    add column actor_role text,
    add column address text,
    add column status smallint,
    add column shown uuid[] not null default '{}',
    add column details jsonb not null default '{}';

-- Which entries are in no chain yet. The sealer asks what is here, never what is newer than what it saw.
create table audit_unsealed (
    place bigint generated always as identity primary key,
    audit_id uuid not null references audit
);
insert into audit_unsealed (audit_id) select id from audit order by id;

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

-- Access in an emergency: opened for minutes, and ended by time or earlier. Both are only ever inserted.
create table break_glass (
    id uuid primary key,
    company_id uuid not null references company,
    user_id uuid not null references app_user,
    reason text not null check (length(reason) between 10 and 500),
    opened_at timestamptz not null,
    expires_at timestamptz not null check (expires_at <= opened_at + interval '60 minutes')
);
create index break_glass_open on break_glass (expires_at);
create table break_glass_end (
    id uuid primary key references break_glass,
    ended_at timestamptz not null,
    ended_by uuid not null references app_user
);

grant select, insert on audit, audit_seal to identity_app;
grant select, insert, delete on audit_unsealed to identity_app;
grant select, insert on break_glass, break_glass_end to identity_app;
