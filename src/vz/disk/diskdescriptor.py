"""DiskDescriptor.xml: which image files make a ploop disk, and which of them is whose parent.

The file is read without document types, entities and namespaces, and kept as a tree, so that what we do not know of
stays when it is written again.  GUIDs are lower-case and in braces.
"""

from __future__ import annotations

import os

from vz.disk.ploopimage import HEADS, MAX_CLUSTER, MAX_SIZE, MIN_CLUSTER, SECTOR, SECTORS_PER_TRACK, PloopCode
from vz.errors import VzError
from vz.kernel.files import write_atomically

NAME = "DiskDescriptor.xml"
TOP = "{5fbaabe3-6958-40ff-92a7-860e329aab41}"
NONE = "{00000000-0000-0000-0000-000000000000}"
LIMIT_BYTES = 1 << 20
MAX_DEPTH, MAX_ELEMENTS = 16, 20000
MAX_IMAGES = 512
TYPES = {"Compressed": "expanded", "Plain": "raw"}


class BadDescriptor(VzError):
    """A DiskDescriptor.xml that cannot be used; the text says why."""

    code = PloopCode.DESCRIPTOR


class Element:
    """An element: its name, attributes, text and children."""

    __slots__ = ("attributes", "children", "name", "text")

    def __init__(self, name: str, text: str = "", attributes: dict[str, str] | None = None) -> None:
        self.name, self.text = name, text
        self.attributes = attributes or {}
        self.children: list[Element] = []

    def find(self, *names: str) -> Element | None:
        """Return the first element on the way *names*."""
        here: Element | None = self
        for name in names:
            here = next((child for child in here.children if child.name == name), None) if here else None
        return here

    def all(self, name: str) -> list[Element]:
        return [child for child in self.children if child.name == name]

    def value(self, name: str) -> str:
        child = self.find(name)
        return child.text.strip() if child else ""

    def put(self, name: str, text: str) -> None:
        """Give the child *name* the text *text*; it is made where there is none."""
        child = self.find(name)
        if child is None:
            child = Element(name)
            self.children.append(child)
        child.text = text

    def render(self, depth: int = 0) -> str:
        indent = "    " * depth
        attributes = "".join(f' {key}="{escape(value)}"' for key, value in self.attributes.items())
        if not self.children:
            return f"{indent}<{self.name}{attributes}>{escape(self.text.strip())}</{self.name}>\n"
        inner = "".join(child.render(depth + 1) for child in self.children)
        return f"{indent}<{self.name}{attributes}>\n{inner}{indent}</{self.name}>\n"


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def parse(data: bytes, path: str) -> Element:
    """Return the tree of the document *data*; BadDescriptor: broken, with a document type, or out of all proportion."""
    import pyexpat

    top = Element("")
    stack = [top]
    made = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal made
        made += 1
        if len(stack) > MAX_DEPTH or made > MAX_ELEMENTS:
            raise BadDescriptor(f"{path}: too many elements")
        element = Element(name, attributes=attributes)
        stack[-1].children.append(element)
        stack.append(element)

    def refuse(*_: object) -> int:
        raise BadDescriptor(f"{path}: document types and entities are not read")

    def text(words: str) -> None:
        stack[-1].text += words

    parser = pyexpat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _name: stack.pop()
    parser.CharacterDataHandler = text
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(data, True)
    except pyexpat.ExpatError as exc:
        raise BadDescriptor(f"{path}: {exc}") from exc
    except (ValueError, LookupError) as exc:  # an encoding that nobody knows
        raise BadDescriptor(f"{path}: {exc}") from exc
    return top.children[0]


class Image:
    """A file of the disk: its GUID, whether it is ``raw`` or ``expanded``, its name beside the XML."""

    __slots__ = ("file", "guid", "kind")

    def __init__(self, guid: str, kind: str, file: str) -> None:
        self.guid, self.kind, self.file = guid, kind, file


class Descriptor:
    """A DiskDescriptor.xml; *images* and *parents* (GUID → its parent's) may be changed, then save()d.

    *size* and *cluster* are in bytes.
    """

    def __init__(self, root: Element, path: str) -> None:
        self.root, self.path = root, path
        self.images: dict[str, Image] = {}
        self.parents: dict[str, str] = {}
        parameters = root.find("Disk_Parameters")
        storages = [storage for data in root.all("StorageData") for storage in _storages(data)]
        if parameters is None or len(storages) != 1:
            raise BadDescriptor(f"{path}: one Disk_Parameters and one Storage are expected")
        self._parameters, self._storage = parameters, storages[0]
        if (key := parameters.find("Encryption", "KeyId")) is not None and key.text.strip():
            raise BadDescriptor(f"{path}: the disk is encrypted")
        self.size = self._number(parameters, "Disk_size") * SECTOR
        sectors = self._number(self._storage, "Blocksize") if self._storage.find("Blocksize") else 2048
        self.cluster = sectors * SECTOR
        if sectors & (sectors - 1) or not MIN_CLUSTER <= self.cluster <= MAX_CLUSTER:
            raise BadDescriptor(f"{path}: a Blocksize of {sectors} sectors")
        if not 0 < self.size <= MAX_SIZE:
            raise BadDescriptor(f"{path}: a disk of {self.size // SECTOR} sectors")
        self._read_images()
        self._read_shots()

    def _number(self, element: Element, name: str) -> int:
        word = element.value(name)
        if not (word.isascii() and word.isdigit() and len(word) < 19):
            raise BadDescriptor(f"{self.path}: {name} is no number")
        return int(word)

    def _read_images(self) -> None:
        files = set()
        for element in self._storage.all("Image"):
            guid, kind, file = self._guid(element.value("GUID")), element.value("Type"), element.value("File")
            if kind not in TYPES:
                raise BadDescriptor(f"{self.path}: an image of type {kind!r}")
            if not plain_name(file) or file == NAME:
                raise BadDescriptor(f"{self.path}: the image {file!r} is not named by a plain file name")
            if guid in self.images or file in files:
                raise BadDescriptor(f"{self.path}: image {guid} is there twice")
            files.add(file)
            self.images[guid] = Image(guid, TYPES[kind], file)
        if not 0 < len(self.images) <= MAX_IMAGES:
            raise BadDescriptor(f"{self.path}: {len(self.images)} images")

    def _read_shots(self) -> None:
        shots = self.root.find("Snapshots")
        if shots is None and len(self.images) == 1:  # a disk that never had a snapshot
            self.parents = {guid: NONE for guid in self.images}
            self.top = next(iter(self.images))
            return
        for shot in shots.all("Shot") if shots else []:
            guid = self._guid(shot.value("GUID"))
            if guid in self.parents:
                raise BadDescriptor(f"{self.path}: snapshot {guid} is there twice")
            self.parents[guid] = self._guid(shot.value("ParentGUID"))
        top = shots.value("TopGUID") if shots else ""
        ends = set(self.images) - set(self.parents.values())
        self.top = self._guid(top) if top else TOP if TOP in self.images or len(ends) != 1 else ends.pop()
        for guid in self.parents:
            if guid not in self.images:
                raise BadDescriptor(f"{self.path}: snapshot {guid} has no image")
            self.chain(guid)
        if set(self.parents) != set(self.images) or self.top not in self.images:
            raise BadDescriptor(f"{self.path}: an image, or the top, is in no snapshot")

    def _guid(self, word: str) -> str:
        try:
            return parse_guid(word)
        except ValueError:
            raise BadDescriptor(f"{self.path}: {word[:60]!r} is no GUID") from None

    def chain(self, guid: str) -> list[Image]:
        """Return the images from the base up to *guid*; BadDescriptor: a circle, or a parent that is not there."""
        found: list[Image] = []
        seen = set()
        while guid != NONE:
            if guid in seen:
                raise BadDescriptor(f"{self.path}: snapshot {guid} is its own ancestor")
            if guid not in self.images or guid not in self.parents:
                raise BadDescriptor(f"{self.path}: the parent {guid} is not there")
            seen.add(guid)
            found.append(self.images[guid])
            guid = self.parents[guid]
        return found[::-1]

    def children(self, guid: str) -> list[str]:
        return [child for child, parent in self.parents.items() if parent == guid]

    def rename_guid(self, old: str, new: str) -> None:
        """Call the image *old* *new*, wherever it is named."""
        image = self.images.pop(old)
        image.guid = new
        self.images[new] = image
        self.parents[new] = self.parents.pop(old)
        for child in self.children(old):
            self.parents[child] = new
        if self.top == old:
            self.top = new

    def forget(self, guid: str) -> Image:
        del self.parents[guid]
        return self.images.pop(guid)

    def render(self) -> bytes:
        """Return the document with images, snapshots and sizes as they are now."""
        sectors = self.size // SECTOR
        self._parameters.put("Disk_size", str(sectors))
        self._parameters.put("Cylinders", str(sectors // (HEADS * SECTORS_PER_TRACK)))
        self._parameters.put("Heads", str(HEADS))
        self._parameters.put("Sectors", str(SECTORS_PER_TRACK))
        self._storage.put("End", str(sectors))
        self._storage.put("Blocksize", str(self.cluster // SECTOR))
        kept = [child for child in self._storage.children if child.name != "Image"]
        names = {kind: word for word, kind in TYPES.items()}
        for image in self.images.values():
            element = Element("Image")
            for name, text in (("GUID", image.guid), ("Type", names[image.kind]), ("File", image.file)):
                element.put(name, text)
            kept.append(element)
        self._storage.children = kept
        shots = self.root.find("Snapshots")
        if shots is None:
            shots = Element("Snapshots")
            self.root.children.append(shots)
        old = {shot.value("GUID").lower(): shot for shot in shots.all("Shot")}
        shots.children = [child for child in shots.children if child.name not in ("Shot", "TopGUID")]
        shots.children.insert(0, Element("TopGUID", self.top))
        for guid, parent in self.parents.items():
            shot = old.get(guid, Element("Shot"))
            shot.put("GUID", guid)
            shot.put("ParentGUID", parent)
            shots.children.append(shot)
        return b'<?xml version="1.0"?>\n' + self.root.render().encode()

    def save(self) -> None:
        """Replace the file, durably; OSError as write_atomically()."""
        write_atomically(self.path, self.render(), 0o600)


def _storages(data: Element) -> list[Element]:
    volume = data.find("Volume")
    return (volume or data).all("Storage")


def new(path: str, size: int, cluster: int, kind: str, file: str) -> Descriptor:
    """Return the descriptor, not yet saved, of a disk whose only image is *file*."""
    root = Element("Parallels_disk_image", attributes={"Version": "1.0"})
    parameters, data, storage, image = (Element(n) for n in ("Disk_Parameters", "StorageData", "Storage", "Image"))
    root.children = [parameters, data]
    data.children = [storage]
    for name in ("Disk_size", "Cylinders", "Heads", "Sectors", "Padding"):
        parameters.put(name, "0")
    parameters.put("Disk_size", str(size // SECTOR))
    storage.put("Start", "0")
    storage.put("End", str(size // SECTOR))
    storage.put("Blocksize", str(cluster // SECTOR))
    storage.children.append(image)
    names = {kind: word for word, kind in TYPES.items()}
    for name, text in (("GUID", TOP), ("Type", names[kind]), ("File", file)):
        image.put(name, text)
    return Descriptor(root, path)


def read(path: str, dir_fd: int) -> Descriptor:
    """Read the descriptor, the file of that *path* in the directory *dir_fd*; no links; BadDescriptor, VzError (4)."""
    from vz.disk.ploopimage import open_regular

    fd = open_regular(os.path.basename(path), dir_fd)
    try:
        if os.fstat(fd).st_size > LIMIT_BYTES:
            raise BadDescriptor(f"{path}: larger than {LIMIT_BYTES} bytes")
        data = os.pread(fd, LIMIT_BYTES + 1, 0)
    finally:
        os.close(fd)
    return Descriptor(parse(data, path), path)


def parse_guid(word: str) -> str:
    """Return *word*, a UUID with or without braces, lower-case and in braces; ValueError."""
    bare = word.strip().lower()
    if bare.startswith("{") and bare.endswith("}"):
        bare = bare[1:-1]
    parts = bare.split("-")
    if [len(part) for part in parts] != [8, 4, 4, 4, 12] or set("".join(parts)) - set("0123456789abcdef"):
        raise ValueError(word)
    return f"{{{bare}}}"


def new_guid() -> str:
    """Return a random UUID in braces."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{{{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}}}"


def plain_name(name: str) -> bool:
    """Tell whether *name* names a file in the same directory, and can be printed."""
    return 0 < len(name) <= 255 and "/" not in name and name not in (".", "..") and name.isprintable()
