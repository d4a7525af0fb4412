#!/bin/sh
# Gives each service a broker user that may touch its own queues and the exchanges it uses, then starts the command.
# Passwords come from the environment, so no file of the repository holds one.
set -eu
umask 077

user() { printf '{"name": "%s", "password": "%s", "tags": []}' "$1" "$2"; }
# Arguments: user, what it may declare, what it may write to, what it may read. Nobody may write to the default exchange
# (amq.default): that is writing to everybody's queues. Parked messages go by an exchange of the queue's own name.
rights() {
  printf '{"user": "%s", "vhost": "billing", "configure": "^(%s)$", "write": "^(%s)$", "read": "^(%s)$"}' "$@"
}
# Who may say what: identity's rights and heartbeats, the ledger's postings. Arguments: user, topics to write, to read.
topics() {
  printf '{"user": "%s", "vhost": "billing", "exchange": "billing.events", "write": "^(%s)$", "read": "^(%s)$"}' "$@"
}

cat > "${DEFINITIONS:-/tmp/definitions.json}" <<JSON
{
  "vhosts": [{"name": "billing"}],
  "users": [
    $(user identity "$IDENTITY_AMQP_PASSWORD"),
    $(user ledger "$LEDGER_AMQP_PASSWORD"),
    $(user reporting "$REPORTING_AMQP_PASSWORD")
  ],
  "permissions": [
    $(rights identity 'billing\\.events' 'billing\\.events' ''),
    $(rights ledger 'billing\\.events|emr\\.feed|(access\\.)?ledger\\..*' 'billing\\.events|(access\\.)?ledger\\..*' 'billing\\.events|emr\\.feed|(access\\.)?ledger\\..*'),
    $(rights reporting 'billing\\.events|(access\\.)?reporting\\..*' '(access\\.)?reporting\\..*' 'billing\\.events|(access\\.)?reporting\\..*')
  ],
  "topic_permissions": [
    $(topics identity 'identity\\..*|heartbeat\\.identity' ''),
    $(topics ledger 'ledger\\..*' 'identity\\..*|heartbeat\\.identity'),
    $(topics reporting '' '(identity|ledger)\\..*|heartbeat\\.identity')
  ]
}
JSON
exec "$@"
