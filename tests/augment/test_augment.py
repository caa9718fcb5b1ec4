"""Augmentations: known answers, torchvision's for the same parameters, what is drawn, and the laws of functions of key and rows."""

from __future__ import annotations

import colorsys
import pickle

import pytest
import scipy.stats
import torch

import cl_func as cl
from cl_func import augment, random
from cl_func.augment import color, resized, spatial
from cl_func.testing import assert_equal, fake_device

X = random.uniform(cl.key(1), (6, 3, 5, 7))
ALL = {
    "random_crop": augment.random_crop(padding=2, fill=0.5),
    "random_resized_crop": augment.random_resized_crop(scale=(0.1, 0.9)),
    "horizontal_flip": augment.horizontal_flip(),
    "cutout": augment.cutout(3),
    "color_jitter": augment.color_jitter(0.4, 0.5, 1.6, 0.2, p=0.8),
    "grayscale": augment.grayscale(0.5),
    "normalize": augment.normalize((0.1, 0.2, 0.3), 0.5),
    "compose": augment.compose(augment.random_crop(padding=1), augment.compose(augment.cutout(2), augment.horizontal_flip(0.3))),
}
each = pytest.mark.parametrize("name", ALL)


@each
def test_rows_that_follow_change_nothing(name):
    full = ALL[name](cl.key(3), X)
    for n in (1, 4):
        assert_equal(ALL[name](cl.key(3), X[:n]), full[:n], "padding")


@each
def test_it_is_pure_and_keeps_shape_dtype_and_device(name):
    for x in (X, X.double()):
        before, out = x.clone(), ALL[name](cl.key(3), x)
        assert_equal(x, before, "pure")
        assert_equal(ALL[name](cl.key(3), x), out, "pure (second call)")
        assert (out.shape, out.dtype) == (x.shape, x.dtype)
    assert fake_device.device_fault(ALL[name], cl.key(3), X, out=ALL[name](cl.key(3), X)) is None
    with cl.testing.key_uses.record_key_uses(cl.key(3)) as uses:
        ALL[name](cl.key(3), X)
    assert not uses.faults
    assert bool(uses.drawn) == (name != "normalize")


@each
def test_lanes_and_compiled_equal_single_and_eager(name):
    keys, lanes = random.split(cl.key(5), 3), torch.stack([X, X.flip(0), X * 0.5])
    singles = [ALL[name](key, x) for key, x in zip(keys, lanes, strict=True)]
    assert_equal(torch.func.vmap(ALL[name])(keys, lanes), torch.stack(singles), "lanes", 1e-6, 1e-6)
    shared = [ALL[name](key, X) for key in keys]
    assert_equal(torch.func.vmap(ALL[name], in_dims=(0, None))(keys, X), torch.stack(shared), "lanes (shared x)", 1e-6, 1e-6)


def test_compiled_equals_eager():
    def everything(key, x):
        return {name: one(key, x) for name, one in ALL.items()}

    assert_equal(cl.compile(everything)(cl.key(7), X), everything(cl.key(7), X), "compiled", 1e-5, 1e-6)


@each
def test_it_is_pickled(name):
    assert_equal(pickle.loads(pickle.dumps(ALL[name]))(cl.key(3), X), ALL[name](cl.key(3), X), "pickled")


# ---------------------------------------------------------------- known answers


def test_shifted_by_hand():
    x = torch.arange(1.0, 7).reshape(1, 1, 2, 3).expand(3, 1, 2, 3)
    out = spatial.shifted(x, torch.tensor([1, -1, 0]), torch.tensor([0, -1, 2]), fill=9.0)
    assert out[:, 0].tolist() == [[[4, 5, 6], [9, 9, 9]], [[9, 9, 9], [9, 1, 2]], [[3, 9, 9], [6, 9, 9]]]


def test_boxes_by_hand():
    box = spatial.boxes(torch.tensor([0, 2]), torch.tensor([1, 3]), 1, 2, torch.zeros(2, 1, 3, 4))
    assert box.int().tolist() == [
        [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]],
    ]


def test_flip_and_grey_by_hand():
    x = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.0]]]])
    assert torch.equal(augment.horizontal_flip(1.0)(cl.key(0), x), x.flip(-1))
    assert torch.equal(augment.horizontal_flip(0.0)(cl.key(0), x), x)
    grey = torch.tensor([[[[0.2989, 0.587]]]]).expand(1, 3, 1, 2)
    torch.testing.assert_close(augment.grayscale(1.0)(cl.key(0), x), grey)
    assert torch.equal(augment.grayscale(0.0)(cl.key(0), x), x)
    torch.testing.assert_close(color.gray(x[:, :1]), x[:, :1])


def test_hues_by_hand_and_by_the_standard_library():
    red, half = torch.tensor([1.0, 0, 0])[None, :, None, None], torch.full((1, 3, 1, 1), 0.3)
    turns = {0.0: [1, 0, 0], 1 / 6: [1, 1, 0], 1 / 3: [0, 1, 0], 0.5: [0, 1, 1], -1 / 3: [0, 0, 1]}
    for turn, expected in turns.items():
        t = torch.tensor(turn).reshape(1, 1, 1, 1)
        torch.testing.assert_close(color.turned(red, t).flatten(), torch.tensor(expected).float(), atol=1e-6, rtol=0)
        assert torch.equal(color.turned(half, t), half)
    t = torch.tensor([0.5, 0.1, -0.25, 0.4, 0.0, 0.3]).reshape(-1, 1, 1, 1)
    out = color.turned(X.double(), t.double())
    for i in range(len(X)):
        for h in range(5):
            hue, saturation, value = colorsys.rgb_to_hsv(*X.double()[i, :, h, 0].tolist())
            expected = colorsys.hsv_to_rgb((hue + float(t.double()[i])) % 1, saturation, value)
            torch.testing.assert_close(out[i, :, h, 0], torch.tensor(expected, dtype=torch.float64))


def test_jitter_by_hand():
    """One pixel, one part at a time; the factor is that of the part's column of draws."""
    x = torch.tensor([0.8, 0.4, 0.2])[None, :, None, None].expand(1, 3, 1, 2).clone()
    x[0, :, 0, 1] = 0.1
    u = random.uniform(cl.key(2), (1, 5))[0].tolist()
    bright, contrast, saturation = (0.6 + 0.8 * u[0], 0.5 + u[1], 2.5 * u[2])
    grey = [0.2989 * 0.8 + 0.587 * 0.4 + 0.114 * 0.2, 0.9999 * 0.1]
    mean = sum(grey) / 2

    def clipped(values):
        return torch.tensor([min(max(v, 0.0), 1.0) for v in values])

    out = augment.color_jitter(brightness=0.4)(cl.key(2), x)[0, :, 0, 0]
    torch.testing.assert_close(out, clipped([bright * v for v in (0.8, 0.4, 0.2)]))
    out = augment.color_jitter(contrast=0.5)(cl.key(2), x)[0, :, 0, 0]
    torch.testing.assert_close(out, clipped([contrast * v + (1 - contrast) * mean for v in (0.8, 0.4, 0.2)]))
    out = augment.color_jitter(saturation=1.5)(cl.key(2), x)[0, :, 0, 0]
    torch.testing.assert_close(out, clipped([saturation * v + (1 - saturation) * grey[0] for v in (0.8, 0.4, 0.2)]))
    assert torch.equal(augment.color_jitter()(cl.key(2), x), x)
    assert torch.equal(augment.color_jitter(0.4, 0.4, 0.4, 0.1, p=0.0)(cl.key(2), x), x)


def test_images_of_one_channel():
    x = X[:, :1]
    assert torch.equal(augment.grayscale(1.0)(cl.key(0), x), x)
    assert torch.equal(augment.color_jitter(hue=0.5)(cl.key(0), x), x)
    torch.testing.assert_close(augment.color_jitter(saturation=0.9)(cl.key(0), x), x)
    assert not torch.equal(augment.color_jitter(contrast=0.9)(cl.key(0), x), x)


def test_normalize_by_hand():
    x = torch.tensor([[1.0, 2.0, 3.0]])[:, :, None, None]
    out = augment.normalize((1.0, 1.0, 1.0), (1.0, 2.0, 4.0))(cl.key(0), x)
    assert out.flatten().tolist() == [0.0, 0.5, 0.5]
    assert augment.normalize(1.0, 2.0)(None, x).flatten().tolist() == [0.0, 0.5, 1.0]


def test_windows_are_stretched_as_torch_does():
    corners = torch.tensor([[0, 0, 5, 7], [1, 2, 1, 1], [2, 0, 3, 4], [0, 3, 2, 4], [4, 6, 1, 1], [1, 1, 4, 2]])
    out = resized.stretched(X, *corners.unbind(1))
    for i, (top, left, height, width) in enumerate(corners.tolist()):
        window = X[i : i + 1, :, top : top + height, left : left + width]
        expected = torch.nn.functional.interpolate(window, size=(5, 7), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(out[i], expected, atol=1e-6, rtol=0)
    assert torch.equal(out[0], X[0])
    drawn = resized.windows(cl.key(3), 6, 5, 7, (0.1, 0.9), (3 / 4, 4 / 3))
    assert torch.equal(ALL["random_resized_crop"](cl.key(3), X), resized.stretched(X, *drawn))


# ---------------------------------------------------------------- torchvision, given the same parameters


def test_spatial_ones_equal_torchvision():
    pytest.importorskip("torchvision")
    from torchvision.transforms.v2 import functional as tv

    offset = random.randint(cl.key(3), (len(X), 2), -2, 3)
    out = ALL["random_crop"](cl.key(3), X)
    for i, (down, right) in enumerate(offset.tolist()):
        padded = tv.pad(X[i], [2, 2, 2, 2], fill=0.5)
        assert torch.equal(out[i], tv.crop(padded, 2 + down, 2 + right, 5, 7))
    assert torch.equal(augment.horizontal_flip(1.0)(cl.key(3), X), tv.horizontal_flip(X))

    row, column = random.split(cl.key(3))
    rows, columns = random.randint(row, len(X), 0, 5), random.randint(column, len(X), 0, 7)
    out = ALL["cutout"](cl.key(3), X)
    for i, (h, w) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        top, left = max(h - 1, 0), max(w - 1, 0)
        assert torch.equal(out[i], tv.erase(X[i], top, left, min(h + 2, 5) - top, min(w + 2, 7) - left, torch.zeros(())))


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_equal_torchvision(channels):
    pytest.importorskip("torchvision")
    from torchvision.transforms.v2 import functional as tv

    x = X[:, :channels]
    u = random.uniform(cl.key(3), (len(x), 5)).tolist()
    out = augment.color_jitter(0.4, 0.5, 1.6, 0.2)(cl.key(3), x)
    for i, (a, b, c, d, _) in enumerate(u):
        image = tv.adjust_contrast(tv.adjust_brightness(x[i], 0.6 + 0.8 * a), 0.5 + b)
        image = tv.adjust_hue(tv.adjust_saturation(image, 2.6 * c), 0.4 * d - 0.2)
        torch.testing.assert_close(out[i], image, atol=2e-6, rtol=0)
    torch.testing.assert_close(augment.grayscale(1.0)(cl.key(3), x), tv.rgb_to_grayscale(x, channels), atol=1e-6, rtol=0)
    mean, std = [0.1, 0.2, 0.3][:channels], [0.3, 0.5, 0.9][:channels]
    torch.testing.assert_close(augment.normalize(mean, std)(cl.key(3), x), tv.normalize(x, mean, std))


# ---------------------------------------------------------------- what is drawn

MANY = 20_000


def test_places_are_uniform():
    x = torch.zeros(MANY, 1, 3, 5)
    x[:, :, 1, 2] = 1  # where the one lies afterwards tells the offset
    found = augment.random_crop(padding=1)(cl.key(11), x).flatten(1).argmax(1)
    _, counts = found.unique(return_counts=True)
    assert len(counts) == 9
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    hidden = augment.cutout(1)(cl.key(12), torch.ones(MANY, 1, 3, 5))
    assert torch.equal(hidden.sum((1, 2, 3)), torch.full((MANY,), 14.0))
    assert scipy.stats.chisquare((1 - hidden).sum((0, 1)).flatten()).pvalue > 1e-3


def test_windows_have_the_areas_and_proportions_asked_for():
    size = 1000
    top, left, height, width = (value.double() for value in resized.windows(cl.key(15), MANY, size, size, (0.1, 0.5), (0.5, 2.0)))
    assert scipy.stats.kstest(height * width / size**2, "uniform", (0.1, 0.4)).pvalue > 1e-3  # all of them fit
    assert scipy.stats.kstest((width / height).log2(), "uniform", (-1, 2)).pvalue > 1e-3
    for corner, length in ((top, height), (left, width)):
        assert bool(((corner >= 0) & (corner + length <= size)).all())
        assert scipy.stats.kstest((corner + 0.5) / (size - length + 1), "uniform", (0, 1)).pvalue > 1e-3


def test_windows_that_cannot_fit_are_the_largest_in_the_middle():
    for height, width, ratio, expected in ((4, 40, (1.0, 1.0), [0, 18, 4, 4]), (9, 3, (0.5, 2.0), [1, 0, 6, 3])):
        found = resized.windows(cl.key(0), 5, height, width, (1.0, 1.0), ratio)
        assert torch.stack(found, 1).tolist() == [expected] * 5


def test_shares_and_factors():
    x = torch.tensor([0.4, 0.2])[None, None, None].expand(MANY, 1, 1, 2)
    flipped = (augment.horizontal_flip(0.3)(cl.key(13), x)[:, 0, 0, 0] == x[0, 0, 0, 1]).sum()
    assert scipy.stats.binomtest(int(flipped), MANY, 0.3).pvalue > 1e-3
    factor = augment.color_jitter(brightness=0.5)(cl.key(14), x)[:, 0, 0, 0] / 0.4
    assert scipy.stats.kstest(factor, "uniform", (0.5, 1.0)).pvalue > 1e-3
    left = (augment.color_jitter(brightness=0.5, p=0.8)(cl.key(14), x) == x).all(-1).sum()
    assert scipy.stats.binomtest(int(left), MANY, 0.2).pvalue > 1e-3


def test_parts_of_a_composition_draw_apart():
    twice = augment.compose(augment.horizontal_flip(), augment.horizontal_flip())
    flips = (twice(cl.key(0), X) != X).flatten(1).any(1)
    assert flips.any()
    assert not flips.all()


# ---------------------------------------------------------------- what is refused


@each
def test_what_is_no_image_is_refused(name):
    for x, kind, message in (
        (X.flatten(1), ValueError, r"x: expected images \[n, C, H, W\], got float32\[6, 105\]; give flat ones their shape"),
        (X[0], ValueError, r"x: expected images"),
        ((X * 255).to(torch.uint8), TypeError, r"x: expected a floating tensor \[n, C, H, W\]"),
        ([1.0], TypeError, r"x: expected a floating tensor"),
    ):
        with pytest.raises(kind, match=message):
            ALL[name](cl.key(0), x)


def test_channels_that_are_no_colours_are_refused():
    four = torch.zeros(2, 4, 3, 3)
    for one in (augment.grayscale(), *(augment.color_jitter(**{part: 0.1}) for part in ("contrast", "saturation", "hue"))):
        with pytest.raises(ValueError, match=r"x: colours are of RGB or grey images.*got \[2, 4, 3, 3\]"):
            one(cl.key(0), four)
    with pytest.raises(ValueError, match=r"mean, std: given for 3 channels, x has 4"):
        augment.normalize((0.1, 0.2, 0.3), 1.0)(cl.key(0), four)
    with pytest.raises(ValueError, match=r"mean, std: given for 2 and 3 channels"):
        augment.normalize((0.1, 0.2), (1.0, 1.0, 1.0))
