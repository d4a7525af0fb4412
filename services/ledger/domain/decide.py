"""One command against the books: postings into the journal and a document, or a `Problem` and nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from services.ledger.domain import (
    charges,
    commands,
    document_acts,
    emr,
    emr_adjustments,
    emr_documents,
    feed_acts,
    later_acts,
    parties,
    payer_payments,
    payments,
    remittances,
    retries,
    totals,
)
from services.ledger.domain.books import Books
from services.ledger.domain.commands import Command
from services.ledger.domain.journal import Journal

_RULES: Final[dict[type, Callable[[Books, Journal, Command, Any], dict[str, Any]]]] = {
    commands.NewPatient: parties.new_patient,
    commands.NewPayer: parties.new_payer,
    commands.NewPhysician: parties.new_physician,
    commands.ChangeParty: parties.change_party,
    commands.DeclareBatch: parties.declare_batch,
    commands.PostCharge: charges.post_charge,
    commands.ChangeCharge: charges.change_charge,
    commands.SetChargeState: charges.set_charge_state,
    commands.AdjustCharge: charges.adjust_charge,
    commands.TransferCharge: charges.transfer_charge,
    commands.PostPayment: payments.post_payment,
    commands.ApplyPayment: payments.apply_payment,
    commands.CorrectPayment: payments.correct_payment,
    commands.ReversePayment: payments.reverse_payment,
    commands.RefundPayment: payments.refund_payment,
    feed_acts.EmrDocument: emr.emr_document,
    feed_acts.EmrAdjustment: emr_adjustments.emr_adjustment,
    document_acts.EmrDocuments: emr_documents.emr_documents,
    document_acts.PayerPayment: payer_payments.payer_payment,
    feed_acts.PostRemittance: remittances.post_remittance,
    feed_acts.ApplyRemittance: remittances.apply_remittance,
    feed_acts.LocateRemittance: remittances.locate_remittance,
    later_acts.RetryClaim: retries.retry_claim,
    later_acts.RetryAdjustment: retries.retry_adjustment,
    later_acts.EmrTotals: totals.emr_totals,
}


def decide(books: Books, journal: Journal, command: Command) -> dict[str, Any]:
    """Every check comes before the first posting of a command, so a refused one leaves books and journal untouched."""
    return _RULES[type(command.act)](books, journal, command, command.act)
