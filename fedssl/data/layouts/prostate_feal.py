"""`prostate-feal`: prostate slices as .npy of two channels: image in 0..1, mask.

```
<path>/client<k>/CaseXX/slice<NNN>.npy    # [H, W, 2]
```
Set `options = { client = "client1" }`, or path to the client's folder. A case is a person; its
slices are cases of mode 2d, or with the option `volumes = true` one volume for the other modes.

Source: Chen et al., "Think twice before selection: federated evidential active learning for
medical image analysis with domain shifts", CVPR 2024.
"""

from __future__ import annotations

from pathlib import Path

from fedssl.data.layouts.cases import CaseFile, MaskCode, files_by_stem, site_folder
from fedssl.data.layouts.clients import client_folder, client_option
from fedssl.data.layouts.layout import flag, layout
from fedssl.data.layouts.tree import subfolders, wrong_tree
from fedssl.data.layouts.volumes import VOLUMES, as_volumes
from fedssl.data.npy import npy_channels
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_CLIENTS = tuple(f"client{k}" for k in range(1, 7))
_EXPECTED = "CaseXX/slice<NNN>.npy"
_CODE = MaskCode(((0, 0, 0), (1, 255, 1)))


@layout("prostate-feal", options={**client_option(_CLIENTS), **VOLUMES})
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return a client's slices or volumes; every one has its mask.

    Raises:
        DataError: no such tree, or arrays of another number of channels.
    """
    root = site_folder(spec.path, spec.name)
    folder = client_folder(spec, root, "prostate-feal", _CLIENTS, _EXPECTED, "FedProstate_npy")
    slices = [
        CaseFile(f"{case.name}_{stem}", case.name, _checked(path), path, "0", "1", code=_CODE)
        for case in subfolders(folder)
        for stem, path in files_by_stem(case).items()
    ]
    if not slices:
        raise wrong_tree(spec, folder, "prostate-feal", _EXPECTED)
    return as_volumes(slices) if flag(spec, "volumes") else slices


def _checked(path: Path) -> Path:
    channels = npy_channels(path)
    if channels != 2:
        raise DataError(
            f"{path} has {channels} channels, but prostate-feal has 2 (image and mask)."
        )
    return path
