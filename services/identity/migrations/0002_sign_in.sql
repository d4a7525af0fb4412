-- Sign-in: second factors, passkeys, sessions that can be listed, one-time reset codes, external providers, and signing
-- keys with their dates.

alter table company add column mfa_required boolean not null default false;

-- Leaky counts: failures drain away by fractions.
alter table login_failure alter column failures type double precision;

-- A family of refresh tokens is a session; its one unused row says how the session stands.
alter table refresh_token
    add column started_at timestamptz not null default now(),
    add column issued_at timestamptz not null default now(),
    add column methods text[] not null default '{}';

-- Private parts are sealed by the application and are emptied when a key retires; public parts stay for verifiers.
alter table signing_key
    add column public_jwk text,
    add column created_at timestamptz not null default now(),
    add column active_at timestamptz,
    add column retired_at timestamptz,
    add column compromised_at timestamptz;
update signing_key set
    created_at = changed_at,
    active_at = case when state <> 'next' then changed_at end,
    retired_at = case when state = 'retired' then changed_at end;

create table totp (
    user_id uuid primary key references app_user,
    sealed_secret bytea not null,
    confirmed boolean not null default false,
    -- The step (RFC 6238) of the last code accepted: no code of it or an earlier one is accepted again.
    last_step bigint not null default 0,
    created_at timestamptz not null default now()
);

create table recovery_code (
    user_id uuid not null references app_user,
    code_hash bytea not null,
    primary key (user_id, code_hash)
);

create table passkey (
    id uuid primary key,
    user_id uuid not null references app_user,
    credential_id bytea not null unique check (length(credential_id) <= 1023),
    public_key bytea not null,
    sign_count bigint not null,
    transports text[] not null default '{}',
    name text not null,
    created_at timestamptz not null default now(),
    used_at timestamptz
);
create index passkey_user on passkey (user_id);

create table external_login (
    issuer text not null,
    subject text not null,
    user_id uuid not null references app_user,
    linked_at timestamptz not null default now(),
    primary key (issuer, subject),
    unique (user_id, issuer)
);
create index app_user_email on app_user (lower(email collate "C"));

create table password_reset (
    user_id uuid primary key references app_user,
    code_hash bytea not null,
    expires_at timestamptz not null
);

-- Challenges and states are sealed and handed to the caller; what is kept is which of them have been used.
create table used_ticket (
    digest bytea primary key,
    expires_at timestamptz not null
);
create index used_ticket_expiry on used_ticket (expires_at);

grant select, insert, update, delete on totp, passkey, password_reset to identity_app;
grant select, insert, delete on recovery_code, external_login, used_ticket to identity_app;
