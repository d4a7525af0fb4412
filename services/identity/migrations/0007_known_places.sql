-- Where somebody has signed in lately: strangers who guess at his account elsewhere do not hold him up there. The account
-- is the hash under which attempts are counted, the place an address (IPv6: its /64).
create table known_place (
    account text not null,
    place text not null,
    seen_at timestamptz not null,
    primary key (account, place)
);
create index known_place_age on known_place (seen_at);
grant select, insert, update, delete on known_place to identity_app;
