"""The observatory's calibration in plain NumPy, for tests: short, slow, of whole small frames.

Of pixels without cosmic rays, saturation or defects, whose rate is about known.
"""

from __future__ import annotations

import asdf
import numpy as np

BORDER, CHANNEL, PADDED = 4, 128, 140
ACTIVE = np.s_[..., BORDER:-BORDER, BORDER:-BORDER]


def load(path, branch="roman"):
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        return file[branch]


def horner(coeffs, z):
    """A polynomial with ascending coefficients."""
    value = np.zeros_like(z)
    for c in coeffs[::-1].astype(np.float64):
        value = value * z + c
    return value


# --- reference pixels ---------------------------------------------------------------------------


def padded(block, backwards):
    """A channel in the order of time, (N, 140)."""
    block = block[:, ::-1] if backwards else block
    return np.pad(block, ((0, 0), (0, PADDED - CHANNEL)))


def without_trend(channel):
    """A padded channel without the straight line in time through its border rows."""
    rows, columns = np.mgrid[: len(channel), :PADDED]
    time = (rows * PADDED + columns - 0.5 * (channel.size - 1)) / channel.size
    edge = np.zeros(channel.shape, bool)
    edge[:BORDER, :CHANNEL] = edge[-BORDER:, :CHANNEL] = True
    line = np.polyfit(time[edge], channel[edge], 1)
    out = channel - np.polyval(line, time)
    out[:, CHANNEL:] = 0
    return out


def fill_gaps(amp33):
    """The pads of the reference output, from what is around them."""
    flat = amp33.ravel().copy()
    known = np.tile(np.arange(PADDED) < CHANNEL, len(amp33))
    weights = np.sin(np.pi * np.arange(1, 32) / 32)
    flat[~known] = 0
    total = np.convolve(flat, weights, "same") / np.convolve(known, weights, "same")
    flat[~known] = total[~known]
    k = np.arange(flat.size // 2 + 1)
    low = 0.5 * (1 + np.cos(2 * np.pi * k / flat.size))
    for _ in range(3):
        smooth = np.fft.irfft(np.fft.rfft(flat) * low, flat.size)
        flat[~known] = smooth[~known]
    return flat


def correct_reference_pixels(data, amp33, weights):
    """Raw resultants without the 1/f noise that borders and reference output tell of."""
    data, amp33 = data.astype(np.float64), amp33.astype(np.float64)
    offset = data.mean(0)
    side, channels = data.shape[-1], data.shape[-1] // CHANNEL
    out = np.empty_like(data)
    for j, plane in enumerate(data - offset):
        parts = [
            without_trend(padded(plane[:, c * CHANNEL :][:, :CHANNEL], c % 2 == 1))
            for c in range(channels)
        ]
        output = np.fft.rfft(fill_gaps(without_trend(padded(amp33[j] - amp33.mean(0), False))))
        rows = np.zeros((2, side, PADDED))
        rows[0, :, :BORDER] = parts[0][:, :BORDER]
        last = parts[-1][:, :BORDER] if channels % 2 == 0 else parts[-1][:, 127:123:-1]
        rows[1, :, :BORDER] = last
        left, right = np.fft.rfft(rows.reshape(2, -1) * (PADDED / BORDER))
        for c, part in enumerate(parts):
            spectrum = weights["gamma"][c] * left + weights["zeta"][c] * right
            spectrum += weights["alpha"][c] * output
            fixed = (part - np.fft.irfft(spectrum, part.size).reshape(part.shape))[:, :CHANNEL]
            columns = slice(c * CHANNEL, (c + 1) * CHANNEL)
            out[j][:, columns] = fixed[:, ::-1] if c % 2 else fixed
    return out + offset


# --- the rest -----------------------------------------------------------------------------------


def subtract_decay(data, table, times, pattern, frame_time):
    """Active pixels without dark decay; `times` are those at which they are read in a frame."""
    a, tau = table["amplitude"], table["time_constant"]
    for plane, reads in zip(data, pattern, strict=True):
        for r in reads:
            plane -= a / len(reads) * np.exp(-(times + (r - 1.5) * frame_time) / tau)


def linearise(data, linearity, inverse, tables, pattern):
    """Active raw resultants made linear read by read."""
    mean = [np.mean(reads) for reads in pattern]
    first, late = horner(linearity, data[0]), horner(linearity, data[-2])
    per_read = (late - first) / (mean[-2] - mean[0])
    channel = (np.arange(data.shape[-1]) + BORDER) // CHANNEL
    out = np.empty_like(data)
    for j, reads in enumerate(pattern):
        each = np.array([horner(inverse, first + per_read * (r - mean[0])) for r in reads])
        each += data[j] - each.mean(0)
        for c, table in enumerate(tables):
            part = each[..., channel == c]
            each[..., channel == c] = part + np.interp(part, np.arange(table.size), table)
        out[j] = np.mean([horner(linearity, u) for u in each], axis=0)
    return out


def fit(data, pattern, frame_time, rate, gain, read):
    """Rate (DN/s) by the optimal weights of a pixel of this rate, gain, read noise; its error."""
    t = frame_time * np.array([np.mean(r) for r in pattern])
    n = np.array([len(r) for r in pattern])
    tau = np.array(
        [sum((2 * (len(r) - k) + 1) * f for k, f in enumerate(r, 1)) / len(r) ** 2 for r in pattern]
    )
    tau = tau * frame_time
    cov = np.minimum.outer(t, t)
    cov[np.diag_indices(len(t))] = tau
    cov = rate / gain * cov + np.diag(read**2 / n)
    step = np.diff(np.eye(len(t)), axis=0) / np.diff(t)[:, None]
    inverse = np.linalg.inv(step @ cov @ step.T)
    weights = inverse.sum(0) / inverse.sum()
    found = np.einsum("j,jyx->yx", weights @ step, data)
    return found, 1 / np.sqrt(inverse.sum())


def calibrate(simulation, times, rate, correct=True):
    """Rate (DN/s) with sky of active pixels and its error, the exposure being about uniform.

    `correct` is whether the reference pixels are used.
    """
    l1 = load(simulation.l1)
    files = {key: load(path) for key, path in simulation.caldir.items()}
    pattern, frame_time = (
        l1["meta"]["exposure"]["read_pattern"],
        l1["meta"]["exposure"]["frame_time"],
    )
    data = np.asarray(l1["data"], np.float64)
    if correct:
        data = correct_reference_pixels(l1["data"], l1["amp33"], files["refpix"])
    data = data[ACTIVE].copy()
    if "darkdecaysignal" in files:
        table = files["darkdecaysignal"]["decay_table"][l1["meta"]["instrument"]["detector"]]
        subtract_decay(data, table, times, pattern, frame_time)
    polynomials = [
        np.asarray(files[k]["coeffs"])[ACTIVE] for k in ("linearity", "inverselinearity")
    ]
    inl = files["integralnonlinearity"]["inl_table"]
    tables = [np.asarray(inl[name]["correction"]) for name in sorted(inl)]
    data = linearise(data, *polynomials, tables, pattern)
    gain, read = (np.median(files[key]["data"]) for key in ("gain", "readnoise"))
    found, error = fit(data, pattern, frame_time, rate, gain, read)
    flat = np.asarray(files["flat"]["data"])
    return (found - np.asarray(files["dark"]["dark_slope"])[ACTIVE]) / flat, error / flat
