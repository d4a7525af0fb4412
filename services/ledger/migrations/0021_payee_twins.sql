-- By which keys an 835 would go that calls its payee otherwise. Null for FHIR, and for what was told before this.
alter table payer_trace add column twins text[];
