-- What payers call a company that they do not name by NPI: its tax id, a number of theirs, its name.
alter table feed_mapping drop constraint feed_mapping_kind_check,
    add constraint feed_mapping_kind_check check (kind in ('clinic', 'payer', 'procedure', 'payee'));
