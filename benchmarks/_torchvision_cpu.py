"""Make `import torchvision` work beside a torch without torchvision's compiled operators.

Some wheels of torchvision are built for another torch (with CUDA, say). Its compiled operators then don't load, and
its Python files fail on import because they annotate operators that nobody declared. Transforms need none of them, so
declaring their names is enough; calling one raises.
"""

import importlib

OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": "(Tensor input, Tensor rois, float a, SymInt b, SymInt c, int d, bool e) -> Tensor",
    "_roi_align_backward": "(Tensor grad, Tensor rois, float a, SymInt b, SymInt c, SymInt d, SymInt e, SymInt f, "
    "SymInt g, int h, bool i) -> Tensor",
    "roi_pool": "(Tensor input, Tensor rois, float a, SymInt b, SymInt c) -> (Tensor, Tensor)",
    "_roi_pool_backward": "(Tensor grad, Tensor rois, Tensor argmax, float a, SymInt b, SymInt c, SymInt d, SymInt e, "
    "SymInt f, SymInt g) -> Tensor",
    "ps_roi_align": "(Tensor input, Tensor rois, float a, SymInt b, SymInt c, int d) -> (Tensor, Tensor)",
    "_ps_roi_align_backward": "(Tensor grad, Tensor rois, Tensor mapping, float a, SymInt b, SymInt c, int d, "
    "SymInt e, SymInt f, SymInt g, SymInt h) -> Tensor",
    "ps_roi_pool": "(Tensor input, Tensor rois, float a, SymInt b, SymInt c) -> (Tensor, Tensor)",
    "_ps_roi_pool_backward": "(Tensor grad, Tensor rois, Tensor mapping, float a, SymInt b, SymInt c, SymInt d, "
    "SymInt e, SymInt f, SymInt g) -> Tensor",
    "deform_conv2d": "(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt a, SymInt b, "
    "SymInt c, SymInt d, SymInt e, SymInt f, SymInt g, SymInt h, bool i) -> Tensor",
    "_deform_conv2d_backward": "(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
    "SymInt a, SymInt b, SymInt c, SymInt d, SymInt e, SymInt f, SymInt g, SymInt h, bool i) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
}
_kept = []  # a torch library undeclares its operators when it is collected


def import_torchvision():
    """Import torchvision, declaring its operators if it does not come with working ones.

    Raises:
      ImportError: torch or torchvision is not installed.
    """
    torch = importlib.import_module("torch")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:  # "operator torchvision::nms does not exist"
        pass
    library = torch.library.Library("torchvision", "DEF")
    _kept.append(library)
    for name, schema in OPERATORS.items():
        library.define(name + schema)
    return importlib.import_module("torchvision")
