"""Devices for which costs are computed: peak rates, memory, and the share of the peak in training.

Peaks are dense matrix rates without sparsity from the makers' data sheets (NVIDIA V100, A100, L40S, H100,
H200 and B200 data sheets). CPU figures are per core: 2 FMA units of 8 fp32 lanes at 3 GHz (AVX2).
`utilisation` is
assumed: utilisation of ViT training in published runs (ViT-L on A100 46%, on H100 25%: DINOv2 and DINOv3
         logs;
small ViTs far less), and of this project's demo on a CPU core.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Peak FLOP/s by precision that it has, memory in bytes, and utilisation (low, mid, high) of the peak.

    usd_per_hour: price of a device-hour if a grid gives none (`cluster.usd_per_gpu_hour`); None if unknown
    """

    name: str
    peak: dict[str, float]
    memory_bytes: float
    utilisation: tuple[float, float, float]
    usd_per_hour: float | None = None


_GIB = 2.0**30


def _gpu(
    name: str,
    fp32: float,
    half: float,
    memory_gib: float,
    *,
    bf16: bool = True,
    usd_per_hour: float | None = None,
) -> Device:
    """A GPU from its peaks in TFLOP/s, its memory in GiB and its price in US dollars."""
    peak = {"fp32": fp32 * 1e12, "fp16": half * 1e12, **({"bf16": half * 1e12} if bf16 else {})}
    return Device(
        name=name,
        peak=peak,
        memory_bytes=memory_gib * _GIB,
        utilisation=(0.15, 0.30, 0.45),
        usd_per_hour=usd_per_hour,
    )


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device(
            name="CPU",
            peak={"fp32": 96e9, "bf16": 96e9, "fp16": 96e9},
            memory_bytes=4 * _GIB,
            utilisation=(0.15, 0.30, 0.50),
        ),
        _gpu("V100", 15.7, 125.0, 32, bf16=False),
        _gpu("A100", 19.5, 312.0, 80),
        _gpu("L40S", 91.6, 362.0, 48),
        _gpu("H100", 67.0, 989.0, 80),
        _gpu("H200", 67.0, 989.0, 141),
        _gpu("B200", 75.0, 2250.0, 180),
    )
}


def hours(flops: float, device: Device, precision: str) -> tuple[float, float, float]:
    """Device-hours for `flops`: low (at the best utilisation), mid, high."""
    low, mid, high = (
        flops / (device.peak[precision] * share) / 3600 for share in reversed(device.utilisation)
    )
    return low, mid, high
