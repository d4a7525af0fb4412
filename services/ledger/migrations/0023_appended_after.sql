-- Beside `append_books`, and called after it: that the batch before was appended, which is named by its event. An append
-- that is sent before that one is committed waits for the company's row, and the count of writes alone cannot tell whose
-- write it then finds: somebody else's may have come instead.
create function appended_after(company uuid, first bigint, event uuid)
returns void
language plpgsql volatile as $$
begin
    if not exists (
        select from event e where e.company_id = company and e.first_version = first and e.event_id = event)
    then
        raise exception using errcode = 'serialization_failure', message = 'the batch before was not appended';
    end if;
end $$;
