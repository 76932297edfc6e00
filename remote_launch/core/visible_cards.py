"""The variables that show a program some of a server's cards: what they say, and how they are set."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.cards import Card, Survey

VISIBLE = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "HIP_VISIBLE_DEVICES"}
ROCR = "ROCR_VISIBLE_DEVICES"  # what it hides, HIP's numbers do not count
ORDER = "CUDA_DEVICE_ORDER"  # CUDA's own order is fastest first; nvidia-smi's, and so ours, is by PCI bus


def is_called(card: Card, name: str) -> bool:
    """True for a card's number, and for the beginning of its uuid or of one of its devices'."""
    if name.isdecimal():
        return card.index == int(name)
    uuids = [card.uuid, *(uuid for _, uuid in card.devices)]
    return any(uuid.startswith(name) for uuid in uuids if uuid)


def shown(value: str) -> list[str]:
    """Given CUDA_VISIBLE_DEVICES, return the cards it names: all before the first that is none."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    return names[: names.index("-1")] if "-1" in names else names


def shown_at_login(survey: Survey, cards: Sequence[Card]) -> tuple[tuple[Card, ...] | None, str]:
    """Return the cards that the login environment shows, and the setting; None where it names what can't be
    found among them."""
    vendor = cards[0].vendor if cards else "nvidia"
    order = (VISIBLE[vendor], *((ROCR,) if vendor == "amd" else ()))
    name = next((name for name in order if name in survey.visible), None)
    if name is None:
        return tuple(cards), ""
    setting = f"{name}={survey.visible[name]}"
    found = [next((c for c in cards if is_called(c, one)), None) for one in shown(survey.visible[name])]
    return (None if None in found else tuple(card for card in found if card)), setting


def variables(
    chosen: Sequence[Card],
    survey: Survey,
    user_env: Mapping[str, str],
    *,
    devices: Sequence[str] = (),
    by_uuid: bool = False,
) -> dict[str, str]:
    """Return the variables that show exactly these cards."""
    if chosen[0].vendor == "amd":
        hidden = shown(survey.visible.get(ROCR, ""))
        places = [str(card.index) for card in chosen]
        if hidden:  # HIP counts among what ROCR leaves it
            names = [next((n for n in hidden if is_called(card, n)), None) for card in chosen]
            places = [str(hidden.index(name)) for name in names if name is not None]
        return {VISIBLE["amd"]: ",".join(places)}
    if any(devices):
        return {VISIBLE["nvidia"]: ",".join(d or c.uuid for d, c in zip(devices, chosen, strict=True))}
    own_order = user_env.get(ORDER, "PCI_BUS_ID") != "PCI_BUS_ID"  # an index means another card there
    if (by_uuid or own_order) and all(card.uuid for card in chosen):
        return {VISIBLE["nvidia"]: ",".join(card.uuid for card in chosen)}
    return {ORDER: "PCI_BUS_ID", VISIBLE["nvidia"]: ",".join(str(card.index) for card in chosen)}
