-- FHIR R4: the lines of a document by its name, to find those that a later state of it has dropped.

alter table feed drop constraint feed_format_check;
alter table feed add constraint feed_format_check check (format in ('x12', 'emr', 'hl7v2', 'fhir'));

-- A line is named by its document, a `#` and its number. Other senders' names rarely look like that, so the index is
-- small, and costs them nothing.
create index feed_document_line on feed_document (company_id, source, external_id text_pattern_ops)
    where kind = 'charge' and strpos(external_id, '#') > 0;
