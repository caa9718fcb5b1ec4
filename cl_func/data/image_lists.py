"""Published datasets of image files with lists: Tiny ImageNet and CUB-200-2011.

Every file that a list names must be there: what is missing, named twice or without a label is an error, never a smaller dataset.
"""

from __future__ import annotations

from pathlib import Path

from cl_func.data.folder import ImageList, files_below, given_folder, image_datasets, image_options
from cl_func.data.images import SUFFIXES, Mode, Size
from cl_func.sources import Dataset


def tiny_imagenet(
    folder: str | Path, *, size: Size = None, mode: Mode = "RGB", cache: bool | str | Path = True, progress: bool = True
) -> tuple[Dataset, Dataset]:
    """(train, test) of Tiny ImageNet: x uint8 [N, 3, 64, 64], y int64 [N], of as many classes as wnids.txt has lines, 200.

    The layout is that of tiny-imagenet-200.zip (Stanford CS231n, http://cs231n.stanford.edu/tiny-imagenet-200.zip):

        wnids.txt                      a WordNet id a line: that of line i is class i
        train/WNID/images/*.JPEG
        val/images/*.JPEG              the test part; the images in test/ have no published labels
        val/val_annotations.txt        a line each: file name, WNID, four numbers of a box, between tabs

    folder: tiny-imagenet-200, or the folder that holds it. The other arguments are those of `from_folder`; grey images become RGB.
    Needs Pillow. Raises FileNotFoundError for a folder, list or image that is not there; ValueError for a list that is damaged, and
    as `from_folder` does.

    The order of the classes is that of wnids.txt, as in Avalanche; torchvision's ImageFolder would sort them.
    """
    root = _root(folder, "tiny-imagenet-200", "wnids.txt")
    options = image_options(size, mode, cache, progress)
    classes = {wnid: label for label, wnid in enumerate(_rows(root / "wnids.txt", 1))}
    train = ImageList([], [])
    for wnid, label in classes.items():
        own = root / "train" / wnid / "images"
        images = [path for path in files_below(own) if path.suffix.lower() in SUFFIXES]
        if not images:
            raise FileNotFoundError(f"folder: there is no image in {own}.")
        train.paths.extend(images)
        train.labels.extend([label] * len(images))
    annotations = root / "val" / "val_annotations.txt"
    rows = _rows(annotations, 6)
    unknown = [row[0] for row in rows.values() if row[0] not in classes]
    if unknown:
        raise ValueError(f"{annotations}: {unknown[0]!r} is no line of wnids.txt.")
    test = ImageList([root / "val" / "images" / name for name in rows], [classes[row[0]] for row in rows.values()])
    return image_datasets(root, train, _present(test), len(classes), options)


def cub(
    folder: str | Path, *, size: Size = 224, mode: Mode = "RGB", cache: bool | str | Path = True, progress: bool = True
) -> tuple[Dataset, Dataset]:
    """(train, test) of CUB-200-2011: x uint8 [N, 3, *size], y int64 [N], of as many classes as classes.txt has lines, 200.

    The layout is that of CUB_200_2011.tgz (Wah, Branson, Welinder, Perona & Belongie, "The Caltech-UCSD Birds-200-2011 dataset",
    Caltech technical report CNS-TR-2011-001, 2011). The lists have a line each, of numbers and names between blanks:

        classes.txt               class number from 1, class name
        images.txt                image number, file name below images/
        image_class_labels.txt    image number, class number
        train_test_split.txt      image number, 1 for training or 0 for testing

    folder: CUB_200_2011, or the folder that holds it. size: the whole images, which all differ in size, are stretched to it; their
        boxes are not used. The other arguments are those of `from_folder`.
    Needs Pillow. Raises FileNotFoundError for a folder, list or image that is not there; ValueError for a list that is damaged or
    does not fit the others, and as `from_folder` does.
    """
    root = _root(folder, "CUB_200_2011", "images.txt")
    options = image_options(size, mode, cache, progress)
    names = _rows(root / "images.txt", 2)
    n_classes = len(_rows(root / "classes.txt", 2))
    labels = _numbers(root / "image_class_labels.txt", names, 1, n_classes)
    training = _numbers(root / "train_test_split.txt", names, 0, 1)
    parts = []
    for part in (1, 0):
        own = [image for image in names if training[image] == part]
        parts.append(_present(ImageList([root / "images" / names[i][0] for i in own], [labels[i] - 1 for i in own])))
    return image_datasets(root, parts[0], parts[1], n_classes, options)


def _root(folder: str | Path, name: str, file: str) -> Path:
    """The folder in which a list stands: the one given, or the one of the archive's name in it."""
    given = given_folder("folder", folder)
    for root in (given, given / name):
        if (root / file).is_file():
            return root
    raise FileNotFoundError(f"folder: neither {given} nor {given / name} holds {file}.")


def _rows(path: Path, n: int) -> dict[str, list[str]]:
    """The lines of a list, each of n words of which the first is like no other's: the rest of the words by the first."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text: {error}.") from error
    found: dict[str, list[str]] = {}
    for i, line in enumerate(lines, 1):
        words = line.split()
        if len(words) != n or words[0] in found:
            what = f"expected {n} words" if len(words) != n else f"{words[0]} stands there twice"
            raise ValueError(f"{path}: line {i}: {what}, got {line!r}.")
        found[words[0]] = words[1:]
    if not found:
        raise ValueError(f"{path}: is empty.")
    return found


def _numbers(path: Path, images: dict[str, list[str]], low: int, high: int) -> dict[str, int]:
    """The number of each of some images in a list, from low to high."""
    rows = _rows(path, 2)
    if rows.keys() != images.keys():
        odd = sorted(rows.keys() ^ images.keys())[0]
        raise ValueError(f"{path}: its images are not those of images.txt: {odd} is in one of them only.")
    found = {}
    for image, (word,) in rows.items():
        if not word.isdecimal() or not low <= int(word) <= high:
            raise ValueError(f"{path}: image {image}: expected a number in {low}..{high}, got {word!r}.")
        found[image] = int(word)
    return found


def _present(images: ImageList) -> ImageList:
    missing = [path for path in images.paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"folder: there is no file {missing[0]}{f', and {len(missing) - 1} more' if missing[1:] else ''}.")
    return images
