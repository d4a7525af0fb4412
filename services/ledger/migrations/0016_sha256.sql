-- What was quarantined is told apart by SHA-256 instead of MD5 (ASVS 5.0 11.4.1). An index takes immutable functions
-- only, and text's own conversions to bytes are not: `decode` is, which wants its backslashes doubled. The old index
-- goes last, so that there is always one that keeps a second delivery out.
create unique index feed_exception_once_sha256 on feed_exception
    (company_id, feed_id, item_key, reason, coalesce(sha256(decode(replace(raw, '\', '\\'), 'escape')), ''))
    where quarantined;
drop index feed_exception_once;
alter index feed_exception_once_sha256 rename to feed_exception_once;
