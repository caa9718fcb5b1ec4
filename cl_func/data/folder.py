"""A folder of images, one folder for each class: CLASS/NAME.png, or train/CLASS/NAME.png and test/CLASS/NAME.png."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cl_func import checks, random, user_warnings
from cl_func.data.cached import cached, listing_key
from cl_func.data.images import SUFFIXES, Mode, Size, given_size, read_images
from cl_func.sources import Dataset

_TESTS = ("test", "val")
_CACHED = ".cl_func.npz"  # how the names of caches end, which stand beside the folders that they are of
_SPLIT_SEED = 0  # changing it changes which images are held out


@dataclass(frozen=True)
class ImageList:
    """Image files and the class number of each."""

    paths: list[Path]
    labels: list[int]

    def take(self, rows: Tensor) -> ImageList:
        """Those of some rows [n] int64."""
        return ImageList([self.paths[i] for i in rows.tolist()], [self.labels[i] for i in rows.tolist()])


def from_folder(
    path: str | Path,
    *,
    size: Size = None,
    mode: Mode = "RGB",
    test_fraction: float | None = None,
    classes: Sequence[str] | None = None,
    cache: bool | str | Path = True,
    progress: bool = True,
) -> tuple[Dataset, Dataset]:
    """(train, test) of a folder of images: x uint8 [N, C, H, W], y int64 [N], the classes in the order of their folders' names.

    The folder holds train/CLASS/NAME.png and test/CLASS/NAME.png (`val` is taken where there is no `test`), images at any depth
    below their CLASS, of the formats bmp, gif, jpeg, pbm, pgm, png, ppm, tiff and webp. Or it holds CLASS/NAME.png alone, and
    `test_fraction` says which part of each class is held out for testing, in (0, 1): the same images every time and on every
    machine. `cl.data.class_names(path)` tells which class has which number. Names that begin with a dot are passed over, and links
    to folders are followed; the images of a folder to which several links lead are taken once for each class.

    size: what images are stretched to, (height, width) or one number for both; None if all have one size.
    mode: "RGB" for three channels, "L" for grey, one channel.
    classes: the names of the classes in order, of which the folder may lack some, so that several folders number them alike; by
        default those that the folder has.
    cache: images are kept, once read, in one npz file beside the folder, or in the folder given here, for the next time; False for
        neither. They are read again when a name, a size or a time of change differs.
    progress: show a progress bar for many images.

    Needs Pillow. Raises FileNotFoundError for no such folder; ValueError, naming the file or folder, for images of different sizes,
    damaged ones, a folder without images, classes of `test` that `train` has not or that are not in `classes`, and for
    test_fraction given where there is a `test`, or missing where there is none. Warns of files that are no images.
    """
    folder = given_folder("path", path)
    options = image_options(size, mode, cache, progress)
    if test_fraction is not None:
        test_fraction = checks.number("test_fraction", test_fraction, 0, 1)
    train_folder, test_folder = _parts(folder)
    names = _class_folders(train_folder) if classes is None else _given_classes(classes, train_folder)
    train = _listed(train_folder, names)
    if test_folder is None:
        if test_fraction is None:
            raise ValueError(
                f"test_fraction: {folder} has no train and test folders; say which part of each class is held out for testing, "
                "test_fraction=0.2."
            )
        train, test = _split(train, names, test_fraction)
    else:
        if test_fraction is not None:
            raise ValueError(f"test_fraction: there is a test part already, {test_folder}; leave it out.")
        unknown = sorted(set(_class_folders(test_folder)) - set(names))
        if classes is not None:
            _given_classes(classes, test_folder)
        elif unknown:
            raise ValueError(f"path: {test_folder} holds the classes {', '.join(unknown)}, which {train_folder} has not.")
        test = _listed(test_folder, names)
    return image_datasets(folder, train, test, len(names), options)


def _given_classes(classes: Sequence[str], folder: Path) -> list[str]:
    """The names of classes that were given, of which a folder has no others."""
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise checks.type_error("classes", "None or the names of the classes in order", classes)
    names = [checks.text("classes", name) for name in classes]
    if len(set(names)) < len(names):
        raise ValueError(f"classes: a name occurs twice, among {', '.join(names)}.")
    others = sorted(set(_class_folders(folder)) - set(names))
    if others:
        raise ValueError(f"classes: {folder} holds the classes {', '.join(others)}, which are not among {', '.join(names)}.")
    return names


def class_names(path: str | Path) -> tuple[str, ...]:
    """The names of the classes of a folder as `from_folder` numbers them: name i is that of class i.

    Raises FileNotFoundError for no such folder, ValueError for one without folders of classes.
    """
    return tuple(_class_folders(_parts(given_folder("path", path))[0]))


def given_folder(name: str, path: str | Path) -> Path:
    """The folder of an argument, checked to exist; FileNotFoundError otherwise, TypeError or ValueError for what is no path."""
    if checks.instance(name, path, (str, Path), "a path") == "":
        raise ValueError(f"{name}: expected a path, got ''.")
    if not Path(path).is_dir():
        raise FileNotFoundError(f"{name}: there is no folder {path}.")
    return Path(path)


@dataclass(frozen=True)
class ImageOptions:
    """How image files are read: the arguments that all readers of them share, checked."""

    size: tuple[int, int] | None
    mode: Mode
    cache: bool | str | Path
    progress: bool


def image_options(size: Size, mode: Mode, cache: bool | str | Path, progress: bool) -> ImageOptions:
    """Check the arguments that all readers of image files share."""
    checks.choice("mode", mode, "RGB", "L")
    if not isinstance(cache, (bool, str, Path)) or cache == "":
        raise checks.type_error("cache", "True, False or a path", cache)
    return ImageOptions(given_size(size), mode, cache, checks.flag("progress", progress))


def image_datasets(
    folder: Path, train: ImageList, test: ImageList, n_classes: int, options: ImageOptions
) -> tuple[Dataset, Dataset]:
    """The datasets of two lists of files below a folder, read or taken from the cache."""
    key = listing_key(folder, [*train.paths, *test.paths], train.labels, test.labels, options.size, options.mode)
    paths = {"train": train.paths, "test": test.paths}
    read = partial(read_images, paths, options.size, options.mode, options.progress, folder.name)
    x = cached(_cache_file(folder, options), key, read, {name: len(part) for name, part in paths.items()})
    first, second = (
        Dataset(x[name], torch.tensor(part.labels), n_classes=n_classes) for name, part in zip(x, (train, test), strict=True)
    )
    return first, second


def _cache_file(folder: Path, options: ImageOptions) -> Path | None:
    if options.cache is False:
        return None
    folder = folder.resolve()
    size = "" if options.size is None else f"-{options.size[0]}x{options.size[1]}"
    if options.cache is True:
        return folder.with_name(f"{folder.name}-{options.mode}{size}{_CACHED}")
    # Folders of one name may share a folder of caches.
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    return Path(options.cache) / f"{folder.name}-{digest}-{options.mode}{size}{_CACHED}"


def _parts(folder: Path) -> tuple[Path, Path | None]:
    """The folders of train and of test; all of the folder and None if it is not in parts."""
    train = folder / "train"
    if not train.is_dir():
        return folder, None
    for name in _TESTS:
        if (folder / name).is_dir():
            return train, folder / name
    raise ValueError(f"path: {folder} holds a folder train, but neither {' nor '.join(_TESTS)}.")


def _class_folders(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if not names:
        raise ValueError(
            f"path: {folder} holds no folder of a class; images stand in folders that name their class, CLASS/NAME.png."
        )
    return names


def _listed(folder: Path, names: list[str]) -> ImageList:
    """The images of each class that has a folder, sorted by path."""
    paths: list[Path] = []
    labels: list[int] = []
    others = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    for label, name in enumerate(names):
        files = files_below(folder / name)
        images = [path for path in files if path.suffix.lower() in SUFFIXES]
        if not images and (folder / name).is_dir():
            raise ValueError(f"path: {folder / name} holds no image; add some, or remove the folder.")
        others += [path for path in files if path.suffix.lower() not in SUFFIXES]
        paths += images
        labels += [label] * len(images)
    others = [path for path in others if not path.name.endswith(_CACHED)]
    if others:
        count = f"{len(others)} files are no images of a class" if len(others) > 1 else "a file is no image of a class"
        user_warnings.warn(f"{folder}: {count} and left out: {others[0].relative_to(folder)}{', ...' if len(others) > 1 else ''}")
    return ImageList(paths, labels)


def files_below(folder: Path) -> list[Path]:
    """The files below a folder, at any depth and sorted, but for those whose names begin with a dot, or their folders' do.

    Links to folders are followed. Each folder is read once, however many links lead to it: one may lead to a folder that holds it.
    """
    found: list[Path] = []
    known = set[str]()
    roots = [folder]
    for root in roots:  # the folder, and then the links in it, so that what is not behind a link has the name that it has without
        for parent, folders, files in os.walk(root):
            real = os.path.realpath(parent)
            folders[:] = [] if real in known else sorted(name for name in folders if name[0] != ".")
            if real not in known:
                roots += [Path(parent, name) for name in folders if os.path.islink(Path(parent, name))]
                found += [Path(parent, name) for name in files if name[0] != "."]
                known.add(real)
    return sorted(found)


def _split(images: ImageList, names: list[str], fraction: float) -> tuple[ImageList, ImageList]:
    y = torch.tensor(images.labels)
    held_out = torch.zeros(len(y), dtype=torch.bool)
    for label, name in enumerate(names):
        rows = (y == label).nonzero().flatten()
        if not len(rows):  # one of `classes` that the folder lacks
            continue
        n = max(round(fraction * len(rows)), 1)
        if n >= len(rows):
            raise ValueError(f"test_fraction: {fraction} of the {len(rows)} images of class {name} leaves none to train on.")
        order = random.permutation(random.fold_in(random.key(_SPLIT_SEED), label), len(rows))
        held_out[rows[order[:n]]] = True
    train, test = (images.take(part.nonzero().flatten()) for part in (~held_out, held_out))
    return train, test
