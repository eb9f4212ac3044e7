"""Named ways in which public and private data lie on disk. A layout is one function."""

from __future__ import annotations

from fedssl.data.layouts import (
    acdc_h5,
    acdc_h5_slices,
    brats_2019_h5,
    csv_lists,
    cvc_clinicdb,
    cvc_colondb,
    dermofit,
    folders,
    fundus_dofe,
    fundus_feal,
    fundus_feddg,
    fundus_sites,
    h5_folder,
    isic_2020,
    jsrt,
    kvasir,
    la_h5,
    lgg_kaggle,
    montgomery,
    msd,
    nnunet,
    pancreas_h5,
    ph2,
    polyp_box_seg,
    prostate_feal,
    prostate_midss,
    prostate_saml,
    retouch,
    scd,
    shenzhen,
    umn,
)
from fedssl.data.layouts.cases import CaseFile
from fedssl.data.layouts.layout import Layout

__all__ = ["LAYOUTS", "CaseFile", "Layout"]

_ALL = (
    acdc_h5.list_cases,
    acdc_h5_slices.list_cases,
    brats_2019_h5.list_cases,
    csv_lists.list_cases,
    cvc_clinicdb.list_cases,
    cvc_colondb.list_cases,
    dermofit.list_cases,
    folders.list_cases,
    fundus_dofe.list_cases,
    fundus_feal.list_cases,
    fundus_feddg.list_cases,
    fundus_sites.list_cases,
    h5_folder.list_cases,
    isic_2020.list_cases,
    jsrt.list_cases,
    kvasir.list_cases,
    la_h5.list_cases,
    lgg_kaggle.list_cases,
    montgomery.list_cases,
    msd.list_cases,
    nnunet.list_cases,
    pancreas_h5.list_cases,
    ph2.list_cases,
    polyp_box_seg.list_cases,
    prostate_feal.list_cases,
    prostate_midss.list_cases,
    prostate_saml.list_cases,
    retouch.list_cases,
    scd.list_cases,
    shenzhen.list_cases,
    umn.list_cases,
)

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _ALL}
"""Every layout, by the name that `layout` has in a federation file."""
