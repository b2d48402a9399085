#!/usr/bin/env bash
# Pillow 13.0.0: rotate and transform of a 16-bit grey image (mode I;16, as a 16-bit PNG opens) with bilinear or bicubic resampling return
# numbers below 256 that have little to do with the picture, in the same mode and without an error. Nearest-neighbour resampling is right, and so
# is resize with each of them, which made us guess the same of rotate. As float32 (mode F) all are right.
#
# Seen on 2026-11-30 with Python 3.11:
#   Pillow 13.0.0 the picture: a ramp from 20000 to 29300, rotated by 10 degrees, at three points
#   nearest   I;16 [24600, 25000, 25600]  F [24600, 25000, 25600]
#   bilinear  I;16 [106, 117, 158]  F [24540, 25073, 25606]
#   bicubic   I;16 [111, 117, 164]  F [24517, 25072, 25612]
#   resized by half, bilinear: I;16 [24550, 24750]  F [24550, 24750]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
from io import BytesIO

import numpy as np
import PIL
from PIL import Image

y, x = np.mgrid[:32, :32]
ramp = (20000 + 100 * x + 200 * y).astype(np.uint16)
Image.fromarray(ramp).save(file := BytesIO(), "PNG")
deep, single = Image.open(file), Image.fromarray(ramp.astype(np.float32))
print("Pillow", PIL.__version__, f"the picture: a ramp from {ramp.min()} to {ramp.max()}, rotated by 10 degrees, at three points")
pair = {}
for name in ("nearest", "bilinear", "bicubic"):
    rotated = [np.asarray(image.rotate(10, Image.Resampling[name.upper()])) for image in (deep, single)]
    pair[name] = [array[16, 14:23:4].round().astype(int).tolist() for array in rotated]
    print(f"{name:9} {deep.mode} {pair[name][0]}  {single.mode} {pair[name][1]}")
halves = [np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))[8, 6:8].round().astype(int).tolist() for image in (deep, single)]
print(f"resized by half, bilinear: {deep.mode} {halves[0]}  {single.mode} {halves[1]}")
assert pair["nearest"][0] == pair["nearest"][1] and np.allclose(*halves, atol=1)
assert all(max(pair[name][0]) < 256 and min(pair[name][1]) > 20000 for name in ("bilinear", "bicubic"))
PYTHON
