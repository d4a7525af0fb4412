-- CSV files, which are read by a profile, and feeds that come through the watched directory.

alter table feed drop constraint feed_format_check;
alter table feed add constraint feed_format_check check (format in ('x12', 'emr', 'hl7v2', 'fhir', 'csv'));
alter table feed drop constraint feed_channel_check;
alter table feed add constraint feed_channel_check check (channel in ('http', 'amqp', 'mllp', 'watched'));
alter table feed_message drop constraint feed_message_channel_check;
alter table feed_message add constraint feed_message_channel_check check (channel in ('http', 'mllp', 'watched'));

-- How the feed's file is to be read, where its format does not say all: the name of a CSV profile, and what it was when
-- the file came. A file that is interrupted is finished as it was begun.
alter table feed add column reading jsonb;

-- What a company agreed with those who send it CSV files, by the name that it gave to the profile.
create table csv_profile (
    company_id uuid not null,
    name text not null,
    profile jsonb not null,
    changed_by uuid not null,
    changed_at timestamptz not null default clock_timestamp(),
    primary key (company_id, name)
);
grant select, insert, update, delete on csv_profile to ledger_app;
