-- Identity: small and global. Rights, not triggers, keep the event log and the audit append-only: the services run as
-- the group role `identity_app`, which owns nothing and has only what the last section grants.

do $$
declare
    made boolean := false;
begin
    if not exists (select from pg_roles where rolname = 'identity_app') then
        begin
            create role identity_app nologin;
            made := true;
        exception when duplicate_object or unique_violation then
            null;  -- Another database of this cluster was migrated at the same moment.
        end;
    end if;
    -- Who made a role may administer it, but from PostgreSQL 16 on must grant himself to act as it.
    if made or not pg_has_role(current_user, 'identity_app', 'member') then
        execute format('grant identity_app to %I', current_user);
    end if;
exception when insufficient_privilege then
    raise exception using
        errcode = 'insufficient_privilege',
        message = format('%s needs the group role identity_app and may not create or grant it', current_user),
        hint = format('As an administrator: create role identity_app nologin; grant identity_app to %I;', current_user);
end
$$;

-- Which user types and service types go with which role (U4, U9, U10). A copy of shared/access/roles.toml that foreign
-- keys can point at, so that the database refuses what the forms should never send; a test holds both equal.
create table role_user_type (
    role text not null,
    user_type text not null,
    primary key (role, user_type)
);
create table role_service_type (
    role text not null,
    service_type text not null,
    primary key (role, service_type)
);
insert into role_user_type (role, user_type) values
    ('operator', 'operator'),
    ('practice_admin', 'partner'), ('practice_admin', 'customer'),
    ('front_office', 'partner'), ('front_office', 'customer'),
    ('front_office_emr_restricted', 'partner'), ('front_office_emr_restricted', 'customer'),
    ('provider', 'partner'), ('provider', 'customer'),
    ('partner_admin', 'partner'),
    ('partner_csr_and_payment_poster', 'partner'),
    ('partner_payment_poster', 'partner'),
    ('partner_csr', 'partner'),
    ('self_service_admin', 'partner'),
    ('self_service_manager', 'partner'),
    ('self_service_front_office', 'partner'),
    ('self_service_ar_specialist', 'partner'),
    ('self_service_payment_poster', 'partner'),
    ('self_service_ar_and_payments', 'partner'),
    ('self_service_claims_mgmt', 'partner');
insert into role_service_type (role, service_type) values
    ('practice_admin', 'revserve'), ('practice_admin', 'revequip'),
    ('front_office', 'revserve'), ('front_office', 'revequip'),
    ('front_office_emr_restricted', 'revserve'), ('front_office_emr_restricted', 'revequip'),
    ('provider', 'revserve'), ('provider', 'revequip'),
    ('partner_admin', 'revequip'),
    ('partner_csr_and_payment_poster', 'revequip'),
    ('partner_payment_poster', 'revequip'),
    ('partner_csr', 'revequip'),
    ('self_service_admin', 'self_service'),
    ('self_service_manager', 'self_service'),
    ('self_service_front_office', 'self_service'),
    ('self_service_ar_specialist', 'self_service'),
    ('self_service_payment_poster', 'self_service'),
    ('self_service_ar_and_payments', 'self_service'),
    ('self_service_claims_mgmt', 'self_service');

create table company (
    id uuid primary key,
    code text not null,
    name text not null,
    service_type text not null check (service_type in ('revserve', 'revequip', 'self_service')),
    time_zone text not null,
    close_policy text not null check (close_policy in ('deposit_date', 'posting_date')),
    npis text[] not null default '{}',
    active boolean not null default true,
    version bigint not null,
    unique (id, service_type)
);
create unique index company_code on company (lower(code collate "C"));

create table location (
    company_id uuid not null references company,
    id uuid not null,
    code text not null,
    name text not null,
    emr_location_id text,
    active boolean not null default true,
    version bigint not null,
    primary key (company_id, id)
);
create unique index location_code on location (company_id, lower(code collate "C"));
-- A feed names the clinic; it must mean one location.
create unique index location_emr on location (company_id, emr_location_id) where active;

create table app_user (
    id uuid primary key,
    user_name text not null check (user_name ~ '^[A-Za-z0-9._@+-]{1,100}$'),
    first_name text not null,
    last_name text not null,
    email text not null,
    password_hash text,
    user_type text not null,
    role text not null,
    affiliation text not null check (affiliation in ('practice', 'rcm', 'integration')),
    default_company_id uuid,
    active boolean not null default true,
    version bigint not null,
    authz_version bigint not null,
    unique (id, user_type, role),
    constraint user_type_fits_role foreign key (role, user_type) references role_user_type (role, user_type),
    check ((default_company_id is null) = (role = 'operator'))
);
-- Names are ASCII by the check above, so that case is all that two spellings can differ in.
create unique index user_name on app_user (lower(user_name collate "C"));

-- Type and role stand in each grant, kept equal by the foreign key, so that the rules which span user and company
-- (U3, U9, D7) are constraints.
create table user_company (
    user_id uuid not null,
    user_type text not null,
    role text not null,
    company_id uuid not null,
    service_type text not null,
    primary key (user_id, company_id),
    foreign key (user_id, user_type, role) references app_user (id, user_type, role) on update cascade,
    foreign key (company_id, service_type) references company (id, service_type) on update cascade,
    constraint role_fits_service_type foreign key (role, service_type) references role_service_type (role, service_type)
);
create unique index user_company_customer on user_company (user_id) where user_type = 'customer';
create index user_company_members on user_company (company_id, user_id);
alter table app_user add constraint default_is_granted foreign key (id, default_company_id)
    references user_company (user_id, company_id) deferrable initially deferred;

create table user_location (
    user_id uuid not null,
    company_id uuid not null,
    location_id uuid not null,
    primary key (user_id, location_id),
    foreign key (user_id, company_id) references user_company (user_id, company_id) on delete cascade,
    foreign key (company_id, location_id) references location (company_id, id)
);

create table client (
    id uuid primary key,
    client_id text not null unique,
    name text not null,
    kind text not null check (kind in ('emr', 'internal')),
    secret_hash bytea not null,
    company_ids uuid[] not null default '{}',
    sources text[] not null default '{}',
    active boolean not null default true,
    version bigint not null
);
create unique index client_name on client (lower(name)) where active and kind = 'emr';

create table signing_key (
    kid text primary key,
    private_jwk text not null,
    state text not null check (state in ('next', 'active', 'retired')),
    changed_at timestamptz not null default now()
);
create unique index signing_key_one_of_each on signing_key (state) where state <> 'retired';

-- One row a token; a family is one sign-in. Used ones stay until the family ends, so that a replay is noticed.
create table refresh_token (
    token_hash bytea primary key,
    family uuid not null,
    user_id uuid not null references app_user,
    company_id uuid references company,
    access_token_id uuid not null,
    used boolean not null default false,
    expires_at timestamptz not null,
    family_expires_at timestamptz not null
);
create index refresh_token_family on refresh_token (family);
create index refresh_token_user on refresh_token (user_id);
create index refresh_token_access on refresh_token (access_token_id);
create index refresh_token_expiry on refresh_token (family_expires_at);

create table login_failure (
    subject text primary key,
    failures integer not null,
    failed_at timestamptz not null,
    blocked_until timestamptz not null
) with (fillfactor = 70);
create index login_failure_age on login_failure (failed_at);

-- Positions are drawn by updating this row inside the transaction, so they are gapless and in commit order. Every
-- administrative change locks it first: changes come one at a time, which is what makes rules over several rows
-- (the last administrator, the default company) safe from races.
create table event_counter (
    only_row boolean primary key default true check (only_row),
    position bigint not null
);
insert into event_counter (position) values (0);
create table event (
    position bigint primary key,
    event_id uuid not null unique,
    type text not null,
    entity text not null,
    entity_version bigint not null,
    occurred_at timestamptz not null,
    payload text not null,
    unique (entity, entity_version)
);
-- "Not yet published" (shared/outbox.py): the id is the event's position, so its order is the order of commits.
create table outbox (
    outbox_id bigint primary key references event (position)
);

create table audit (
    id uuid primary key,
    at timestamptz not null,
    action text not null,
    actor_id uuid,
    actor_name text not null,
    subject_id text,
    company_ids uuid[] not null,
    changed text[] not null default '{}',
    request_id text
);
create index audit_companies on audit using gin (company_ids);

grant select on schema_migration, role_user_type, role_service_type to identity_app;
grant select, insert, update on company, location, app_user, client to identity_app;
grant select, insert, delete on user_company, user_location to identity_app;
grant select, insert, update, delete on signing_key, refresh_token, login_failure to identity_app;
grant select, update on event_counter to identity_app;
grant select, insert on event, audit to identity_app;
grant select, insert, delete on outbox to identity_app;
