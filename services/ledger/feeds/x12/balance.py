"""The balancing rules of 005010X221A1 1.10.2.1, each answering with its numbers; never a plug entry.

Adjustments count the same way in CAS and PLB: positive reduces the payment. AMT never balances (RFI 1324, 2601).
"""

from __future__ import annotations

from collections.abc import Sequence

from services.ledger.feeds.x12.model import Adjustment, Code, Finding, Header, Line
from shared.money import dollars


def claim_findings(
    charge: int, paid: int, adjustments: Sequence[Adjustment], lines: Sequence[Line]
) -> tuple[Finding, ...]:
    """Rules L and C, and where both hold, whether the lines are all of the claim."""
    found = []
    adjusted, lines_charge = sum(a.cents for a in adjustments), 0
    for line in lines:
        line_adjusted = sum(a.cents for a in line.adjustments)
        adjusted += line_adjusted
        lines_charge += line.charge_cents
        if line.charge_cents - line_adjusted != line.paid_cents:  # L (RFI 2348)
            found.append(
                _unbalanced(
                    "line_unbalanced",
                    f"Line {line.ordinal}: SVC02 - CAS = SVC03",
                    (("charge", line.charge_cents), ("adjustments", line_adjusted), ("paid", line.paid_cents)),
                    line.ordinal,
                )
            )
    if charge - adjusted != paid:  # C (RFI 2601)
        c_numbers = (("charge", charge), ("adjustments", adjusted), ("paid", paid))
        found.append(_unbalanced("claim_unbalanced", "CLP03 - all CAS = CLP04", c_numbers))
    elif lines and not found and lines_charge != charge:
        # Not a rule of the TR3, but then a line is missing or repeated, and paying by the lines would pay another sum.
        numbers = (("charge", charge), ("lines", lines_charge))
        found.append(_unbalanced("claim_unbalanced", "The sum of SVC02 = CLP03", numbers))
    return tuple(found)


def transaction_findings(header: Header, amount: int | None, paid: int, provider: int, items: int) -> list[Finding]:
    """Rule T, and whether the money can have been moved as the header says.

    `amount` is None without a BPR. `items` counts claims and provider adjustments: with none of them BPR02 = 0
    balances, but a remittance in which nothing was found was not understood.
    """
    found = []
    expected = paid - provider
    numbers = (("bpr02", amount or 0), ("claims", paid), ("provider_adjustments", provider))
    if amount is None:
        found.append(Finding("transaction_unbalanced", "There is no BPR to balance the claims against", numbers))
    elif amount != expected:
        found.append(_unbalanced("transaction_unbalanced", "BPR02 = sum of CLP04 - sum of PLB", numbers))
    elif not items:
        found.append(Finding("transaction_unbalanced", "There is neither a claim nor a provider adjustment", numbers))
    return found + _movement_findings(header) if amount else found


def _movement_findings(header: Header) -> list[Finding]:
    """Money that a notification names was not moved: BPR01 H (or P, which only announces that there will be transfers),
    or BPR04 NON (RFI 1581). Nobody pays less than nothing: what a payer is owed stands in PLB beside BPR02 = 0
    (RFI 1756), or he draws it from the account, which BPR03 D says and no check can do."""
    amount, method = header.amount_cents, header.method_code
    said = f"BPR01 {header.handling}" if header.handling in ("H", "P") else "BPR04 NON" if method == "NON" else ""
    if said:
        detail = f"{said} is a notification without money, but BPR02 is {dollars(amount)}"
        return [Finding("notification_with_money", detail, (("bpr02", amount),))]
    if header.is_debit == (amount < 0) and (amount > 0 or header.method == "eft"):
        return []
    stated = dollars(-amount if header.is_debit else amount)
    detail = f"BPR02 {stated} with BPR03 {'D' if header.is_debit else 'C'} and BPR04 {method[:3]} is no payment"
    return [Finding("negative_payment", detail, (("bpr02", amount),))]


def _unbalanced(code: Code, rule: str, numbers: tuple[tuple[str, int], ...], line: int | None = None) -> Finding:
    shown = ", ".join(f"{name.replace('_', ' ')} {dollars(value)}" for name, value in numbers)
    return Finding(code, f"{rule} does not hold: {shown}", numbers, line)
