"""Texts of suites that tests write to files."""

from __future__ import annotations

TINY_SUITE = """\
name: tiny
title: Few steps of small networks
dataset: digits
image_size: 8
systems: [pixel_gaussian, sddpm]
time_steps: [2]
sampling:
  - {sampler: ddim, steps: 2, eta: 1}
presets:
  smoke:
    budget: {train_steps: 4, batch_size: 8}
    samples: 12
    references: 20
    energy_images: 1
    config:
      sddpm: {channels: 8, multipliers: [1, 2], blocks: 1}
"""
"""A network and a Gaussian that run takes through all stages in seconds."""
