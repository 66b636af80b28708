"""Each change of the classical augmentation, alone and together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ecgforge.classifiers.common.augmentation import augmented
from ecgforge.params import Augmentation

NONE = {"max_time_shift": 0.0, "gain": 0.0, "noise": 0.0, "wander": 0.0, "lead_dropout": 0.0}
RATE = 50


def records() -> torch.Tensor:
    return (
        torch.randn(64, 8, 500, generator=torch.Generator().manual_seed(0))
        * torch.linspace(0.1, 2, 8)[:, None]
    )


def changed(seed: int = 1, **settings: float) -> torch.Tensor:
    return augmented(
        records(), Augmentation(**{**NONE, **settings}), RATE, torch.Generator().manual_seed(seed)
    )


def test_no_augmentation_changes_nothing() -> None:
    assert torch.equal(changed(), records())


def test_numbers_are_drawn_on_the_device_of_the_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[object] = []
    plain = {name: getattr(torch, name) for name in ("rand", "randn")}
    for name in plain:

        def drawn(*size: object, name: str = name, **more: Any) -> torch.Tensor:
            devices.append(more.get("device"))
            return plain[name](*size, **more)

        monkeypatch.setattr(torch, name, drawn)
    signals = torch.zeros(4, 8, 500)
    augmented(signals, Augmentation(), RATE, torch.Generator().manual_seed(0))
    assert devices == [signals.device] * 7


def test_a_record_depends_on_the_source_of_randomness_alone() -> None:
    everything = {
        "max_time_shift": 2.0,
        "gain": 0.1,
        "noise": 0.1,
        "wander": 0.1,
        "lead_dropout": 0.1,
    }
    assert torch.equal(changed(**everything), changed(**everything))
    assert not torch.equal(changed(**everything), changed(seed=2, **everything))


def test_all_leads_of_a_record_shift_together_within_the_limit() -> None:
    before, after = records(), changed(max_time_shift=2.0)
    moved = []
    for one, other in zip(before, after, strict=True):
        shifts = [shift for shift in range(-250, 250) if torch.equal(one.roll(shift, -1), other)]
        assert len(shifts) == 1
        moved.append(shifts[0])
    assert max(map(abs, moved)) <= 100
    assert min(moved) < -60
    assert max(moved) > 60


def test_a_gain_is_one_for_all_leads_of_a_record() -> None:
    gains = changed(gain=0.2) / records()
    torch.testing.assert_close(gains, gains[:, :1, :1].expand_as(gains), rtol=1e-3, atol=1e-4)
    assert torch.log(gains[:, 0, 0]).std() == pytest.approx(0.2, rel=0.25)
    assert (gains > 0).all(), "a lead is not turned round"


def test_noise_and_wander_are_relative_to_the_lead() -> None:
    before = records()
    spread = before.std(dim=2)
    noise = changed(noise=0.3) - before
    torch.testing.assert_close(
        noise.std(dim=2) / spread, torch.full((64, 8), 0.3), rtol=0.2, atol=0
    )
    wander = changed(wander=0.3) - before
    power = torch.fft.rfft(wander).abs().square().mean(dim=(0, 1))
    assert power[:8].sum() > 0.95 * power.sum(), "below 0.8 Hz"
    assert (wander.std(dim=2) / spread).mean() == pytest.approx(0.3 * 0.8 / 2**0.5, rel=0.25), (
        "E|N| = 0.8, of a sine"
    )


def test_a_dropped_lead_is_flat() -> None:
    flat = (changed(lead_dropout=0.25) == 0).all(dim=2)
    assert flat.float().mean() == pytest.approx(0.25, abs=0.06)
    assert torch.equal(changed(lead_dropout=0.25)[~flat], records()[~flat])
