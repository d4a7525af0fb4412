-- A copy of what identity says (shared/directory.py): states, the highest version wins.
create table directory_company (
    company_id uuid primary key,
    version bigint not null,
    code text not null,
    name text not null,
    service_type text not null,
    time_zone text not null,
    close_policy text not null,
    npis text[] not null default '{}',
    active boolean not null default true
);
create table directory_location (
    company_id uuid not null,
    location_id uuid not null,
    version bigint not null,
    code text not null,
    name text not null,
    emr_location_id text,
    active boolean not null default true,
    primary key (company_id, location_id)
);
create table directory_user (
    user_id uuid primary key,
    version bigint not null,
    user_name text not null,
    display_name text not null,
    affiliation text not null,
    company_ids uuid[] not null default '{}',
    active boolean not null default true
);
create table directory_client (
    client_id text primary key,
    version bigint not null,
    name text not null,
    kind text not null,
    company_ids uuid[] not null default '{}',
    sources text[] not null default '{}',
    active boolean not null default true
);
create table directory_progress (
    only_row boolean primary key default true check (only_row),
    position bigint not null
);
