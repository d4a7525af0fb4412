-- HL7 v2: messages by their sender's key, what is agreed with each sender, prices for charges sent without one.

alter table feed drop constraint feed_format_check;
alter table feed add constraint feed_format_check check (format in ('x12', 'emr', 'hl7v2'));
alter table feed drop constraint feed_channel_check;
alter table feed add constraint feed_channel_check check (channel in ('http', 'amqp', 'mllp'));

-- One row per message and content, with the answer that it was given: the same message is given it again, byte for
-- byte. `received` is answered and not yet posted; whoever starts next posts it, in the order of `message_no`.
create table feed_message (
    company_id uuid not null,
    message_key text not null,
    body_hash bytea not null,
    message_no bigint generated always as identity,
    feed_id uuid not null,
    source text not null,
    channel text not null check (channel in ('http', 'mllp')),
    raw bytea not null,
    ack bytea not null,
    state text not null check (state in ('received', 'done', 'refused')),
    received_at timestamptz not null default clock_timestamp(),
    primary key (company_id, message_key, body_hash),
    foreign key (company_id, feed_id) references feed (company_id, feed_id)
);
create index feed_message_feed on feed_message (company_id, feed_id, message_no);
create index feed_message_open on feed_message (message_no) where state = 'received';
-- Of one key only one content is ever accepted, also when two come at the same moment.
create unique index feed_message_accepted on feed_message (company_id, message_key) where state <> 'refused';

create table feed_profile (
    company_id uuid not null,
    source text not null,
    format text not null check (format in ('hl7v2')),
    profile jsonb not null,
    primary key (company_id, source, format)
);

create table fee_schedule (
    company_id uuid not null,
    procedure_code text not null,
    amount_cents bigint not null check (amount_cents > 0),
    primary key (company_id, procedure_code)
);

-- An HL7 sender is "MSH-3|MSH-4"; a client may be registered for both or for either.
create or replace function feed_belongs_to(channel text, sender text, client text)
returns boolean
language sql stable as $$
    select sender = client
        or channel in ('amqp', 'mllp') and exists (
            select from directory_client c where c.client_id = client and (
                sender = any (c.sources)
                or channel = 'mllp' and array [split_part(sender, '|', 1), split_part(sender, '|', 2)] && c.sources))
$$;

grant select on feed_message, feed_profile, fee_schedule to ledger_app;
grant insert, update on feed_message, feed_profile, fee_schedule to ledger_app;
