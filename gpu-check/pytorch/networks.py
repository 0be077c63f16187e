"""SegFace's networks in PyTorch, as published, with seeded weights: what `cargo xtask gpu-check` measures PyTorch by.

The same operators in the same order as in the crate `reference/`, which is held against the published network's own outputs;
`python3 parity.py` holds this file against them too. Three things are done in PyTorch's favour: what depends on weights alone
(position biases, shift masks, the positional encoding) is computed once, convolutional networks run channels last, and nothing is
computed that inference does not need.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"

CELEB = (
    "background neck face cloth rightear leftear rightbro leftbro righteye lefteye nose innermouth lowerlip upperlip hair glass "
    "hat earring necklace"
).split()
HELEN = "background face leftbro rightbro lefteye righteye nose upperlip innermouth lowerlip hair".split()
CLASSES = {"celeb": CELEB, "helen": HELEN}

MASK = (1 << 64) - 1


def signed(value):
    """An unsigned 64-bit number as the int64 of the same bits."""
    value &= MASK
    return value - (1 << 64) if value >> 63 else value


def seeded(name, count, device="cpu"):
    """u(name, 0..count) of fixtures/parity/README.md: float64 in [-1, 1)."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & MASK

    def shifted(z, bits):
        return (z >> bits) & ((1 << (64 - bits)) - 1)

    z = torch.arange(count, dtype=torch.int64, device=device) + signed(seed + 0x9E3779B97F4A7C15)
    z = (z ^ shifted(z, 30)) * signed(0xBF58476D1CE4E5B9)
    z = (z ^ shifted(z, 27)) * signed(0x94D049BB133111EB)
    z = z ^ shifted(z, 31)
    return shifted(z, 40).double() * (2.0 / (1 << 24)) - 1.0


def seeded_weight(name, shape, device):
    """The weight `name` by the rules of fixtures/parity/README.md, rounded to float32."""
    count = math.prod(shape)
    u = seeded(name, count, device)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_mean":
        value = 0.1 * u
    elif leaf == "running_var":
        value = 1 + 0.5 * u
    elif leaf == "relative_position_bias_table":
        value = u
    elif leaf == "logit_scale":
        value = math.log(10) + 0.3 * u
    elif leaf == "layer_scale":
        value = 0.3 + 0.1 * u
    elif leaf == "positional_encoding_gaussian_matrix":
        value = 1.5 * u
    elif leaf == "weight" and "_token" in name and list(shape) == [1, 256]:
        value = u
    elif name.endswith((".bn3.weight", ".block.3.1.weight")):
        value = 0.3 * (1 + 0.2 * u)
    elif leaf == "weight" and len(shape) == 1:
        value = 1 + 0.2 * u
    elif len(shape) == 1:
        value = 0.1 * u
    elif name.startswith("face_decoder.output_upscaling."):
        value = u * math.sqrt(4.5 / shape[0])
    else:
        value = u * math.sqrt(4.5 / math.prod(shape[1:]))
    return value.float().reshape(shape)


def manifest(backbone, variant="celeb"):
    """Names and shapes of the published state dict."""
    stored = "convnext_small" if backbone == "convnext_true_tiny" else backbone
    unused = ("num_batches_tracked", "relative_position_index", "relative_coords_table")
    shapes = {}
    for line in (FIXTURES / "keys" / f"{stored}_celeb.tsv").read_text().splitlines():
        name, shape, _ = line.split("\t")
        tiny_lacks = backbone == "convnext_true_tiny" and name.startswith("backbone.0.5.") and int(name.split(".")[3]) >= 9
        if not name.endswith((*unused, "_token.weight")) and not tiny_lacks:
            shapes[name] = [int(side) for side in shape.split("x")]
    for name in CLASSES[variant]:
        shapes[f"face_decoder.{name}_token.weight"] = [1, 256]
    return shapes


class Scope:
    """The weights whose names begin with a path."""

    def __init__(self, net, path=""):
        self.net, self.path = net, path

    def at(self, *names):
        return Scope(self.net, self.path + "".join(f"{name}." for name in names))

    def get(self, name):
        return getattr(self.net, (self.path + name).replace(".", "__"))

    def linear(self, x):
        return F.linear(x, self.get("weight"), self.get("bias"))

    def layer_norm(self, x, eps):
        weight = self.get("weight")
        return F.layer_norm(x, weight.shape, weight, self.get("bias"), eps)

    def layer_norm_2d(self, x, eps):
        return self.layer_norm(x.permute(0, 2, 3, 1), eps).permute(0, 3, 1, 2)

    def batch_norm(self, x, eps):
        mean, var = self.get("running_mean"), self.get("running_var")
        return F.batch_norm(x, mean, var, self.get("weight"), self.get("bias"), False, 0.0, eps)

    def constant(self, name, make):
        """What depends on weights and sizes only: made at the first run."""
        key = self.path + name
        if key not in self.net.constants:
            self.net.constants[key] = make()
        return self.net.constants[key]


def conv_norm(scope, x, stride, activation, eps):
    weight = scope.at(0).get("weight")
    out, depth, side, _ = weight.shape
    y = F.conv2d(x, weight, None, stride, (side - 1) // 2, 1, out if depth == 1 else 1)
    return activation(scope.at(1).batch_norm(y, eps))


def identity(x):
    return x


def squeeze_excite(scope, x, inner, gate):
    y = F.adaptive_avg_pool2d(x, 1)
    y = inner(F.conv2d(y, scope.at("fc1").get("weight"), scope.at("fc1").get("bias")))
    return x * gate(F.conv2d(y, scope.at("fc2").get("weight"), scope.at("fc2").get("bias")))


# torchvision's mobilenet_v3_large: expands, squeezes, activation, stride, residual
MOBILENET = [
    (False, False, F.relu, 1, True), (True, False, F.relu, 2, False), (True, False, F.relu, 1, True),
    (True, True, F.relu, 2, False), (True, True, F.relu, 1, True), (True, True, F.relu, 1, True),
    (True, False, F.hardswish, 2, False), (True, False, F.hardswish, 1, True), (True, False, F.hardswish, 1, True),
    (True, False, F.hardswish, 1, True), (True, True, F.hardswish, 1, False), (True, True, F.hardswish, 1, True),
    (True, True, F.hardswish, 2, False), (True, True, F.hardswish, 1, True), (True, True, F.hardswish, 1, True),
]


def mobilenet(scope, x):
    x = conv_norm(scope.at(0), x, 2, F.hardswish, 1e-3)
    taps = []
    for index, (expands, squeezes, activation, stride, residual) in enumerate(MOBILENET, 1):
        block, layer, y = scope.at(index, "block"), 0, x
        if expands:
            y = conv_norm(block.at(layer), y, 1, activation, 1e-3)
            layer += 1
        y = conv_norm(block.at(layer), y, stride, activation, 1e-3)
        layer += 1
        if squeezes:
            y = squeeze_excite(block.at(layer), y, F.relu, F.hardsigmoid)
            layer += 1
        y = conv_norm(block.at(layer), y, 1, identity, 1e-3)
        x = x + y if residual else y
        if index in (3, 6, 12):
            taps.append(x)
    return taps + [conv_norm(scope.at(16), x, 1, F.hardswish, 1e-3)]


# torchvision's efficientnet_v2_m: kind, depth, stride of the first block
EFFICIENTNET = [("plain", 3, 1), ("fused", 5, 2), ("fused", 5, 2), ("mobile", 7, 2), ("mobile", 14, 1), ("mobile", 18, 2), ("mobile", 5, 1)]


def efficientnet(scope, x):
    x = conv_norm(scope.at(0), x, 2, F.silu, 1e-3)
    taps = []
    for stage, (kind, depth, first_stride) in enumerate(EFFICIENTNET, 1):
        for index in range(depth):
            block, stride = scope.at(stage, index, "block"), first_stride if index == 0 else 1
            if kind == "mobile":
                y = conv_norm(block.at(0), x, 1, F.silu, 1e-3)
                y = conv_norm(block.at(1), y, stride, F.silu, 1e-3)
                y = squeeze_excite(block.at(2), y, F.silu, torch.sigmoid)
                y = conv_norm(block.at(3), y, 1, identity, 1e-3)
            else:
                y = conv_norm(block.at(0), x, stride, F.silu, 1e-3)
                if kind == "fused":
                    y = conv_norm(block.at(1), y, 1, identity, 1e-3)
            x = x + y if y.shape == x.shape else y
        if stage in (2, 3, 5):
            taps.append(x)
    return taps + [conv_norm(scope.at(8), x, 1, F.silu, 1e-3)]


def resnet(scope, x):
    """torchvision's resnet101."""
    x = F.relu(scope.at(1).batch_norm(F.conv2d(x, scope.at(0).get("weight"), None, 2, 3), 1e-5))
    x = F.max_pool2d(x, 3, 2, 1)
    taps = []
    for layer, depth in enumerate((3, 4, 23, 3)):
        for index in range(depth):
            block, stride = scope.at(4 + layer, index), 2 if layer > 0 and index == 0 else 1
            y = F.relu(block.at("bn1").batch_norm(F.conv2d(x, block.at("conv1").get("weight")), 1e-5))
            y = F.conv2d(y, block.at("conv2").get("weight"), None, stride, 1)
            y = F.relu(block.at("bn2").batch_norm(y, 1e-5))
            y = block.at("bn3").batch_norm(F.conv2d(y, block.at("conv3").get("weight")), 1e-5)
            if index == 0:
                projected = F.conv2d(x, block.at("downsample", 0).get("weight"), None, stride)
                x = block.at("downsample", 1).batch_norm(projected, 1e-5)
            x = F.relu(x + y)
        taps.append(x)
    return taps


def convnext(depths):
    def taps(scope, x):
        features, taps = scope.at(0), []
        stem = features.at(0)
        x = stem.at(1).layer_norm_2d(F.conv2d(x, stem.at(0).get("weight"), stem.at(0).get("bias"), 4), 1e-6)
        for stage, depth in enumerate(depths):
            if stage > 0:
                down = features.at(2 * stage)
                normed = down.at(0).layer_norm_2d(x, 1e-6)
                x = F.conv2d(normed, down.at(1).get("weight"), down.at(1).get("bias"), 2)
            for index in range(depth):
                block = features.at(2 * stage + 1, index)
                inner = block.at("block")
                weight = inner.at(0).get("weight")
                y = F.conv2d(x, weight, inner.at(0).get("bias"), 1, 3, 1, weight.shape[0])
                y = inner.at(2).layer_norm(y.permute(0, 2, 3, 1), 1e-6)
                y = inner.at(5).linear(F.gelu(inner.at(3).linear(y)))
                x = x + y.permute(0, 3, 1, 2) * block.get("layer_scale")
            taps.append(x)
        return taps

    return taps


def relative_index(side, device):
    at = torch.arange(side * side, device=device)
    y, x = at // side, at % side
    dy, dx = (y[:, None] - y[None, :]) + side - 1, (x[:, None] - x[None, :]) + side - 1
    return (dy * (2 * side - 1) + dx).flatten()


def position_bias(scope, version, side, device):
    """[heads, side², side²]"""
    if version == 1:
        table = scope.get("relative_position_bias_table")
    else:
        # In float32 whatever the network's precision, as published checkpoints store the table.
        offsets = torch.arange(1 - side, side, dtype=torch.float32, device=device) / (side - 1) * 8
        axis = offsets.sign() * (offsets.abs() + 1).log2() / 3.0
        coordinates = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        cpb = scope.at("cpb_mlp")
        hidden = F.relu(cpb.at(0).linear(coordinates.to(cpb.at(0).get("weight").dtype)))
        table = F.linear(hidden, cpb.at(2).get("weight"))
    bias = table[relative_index(side, device)].reshape(side * side, side * side, -1).permute(2, 0, 1)
    return bias.contiguous() if version == 1 else 16 * torch.sigmoid(bias.contiguous())


def to_windows(x, side):
    n, height, width, channels = x.shape
    x = x.reshape(n, height // side, side, width // side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, channels)


def shift_mask(height, width, side, shift, like):
    def regions(length, shift):
        at = torch.arange(length, device=like.device)
        return (at >= length - side).long() + (at >= length - shift).long() if shift else torch.zeros_like(at)

    region = regions(height, shift[0])[:, None] * 3 + regions(width, shift[1])[None, :]
    windows = to_windows(region[None, :, :, None], side)[..., 0]
    apart = windows[:, None, :] != windows[:, :, None]
    return apart.to(like.dtype) * -100.0


def window_attention(scope, x, version, side, shift):
    n, height, width, channels = x.shape
    rows, columns = -(-height // side), -(-width // side)
    shift = (shift if rows > 1 else 0, shift if columns > 1 else 0)
    padded = F.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
    windows = to_windows(torch.roll(padded, (-shift[0], -shift[1]), (1, 2)), side)

    def qkv_bias():
        bias = scope.at("qkv").get("bias")
        third = channels
        return bias if version == 1 else torch.cat([bias[:third], torch.zeros_like(bias[:third]), bias[2 * third :]])

    qkv = F.linear(windows, scope.at("qkv").get("weight"), scope.constant("qkv_bias", qkv_bias))
    bias = scope.constant("position_bias", lambda: position_bias(scope, version, side, x.device))
    mask = scope.constant(f"mask {height} {width}", lambda: shift_mask(rows * side, columns * side, side, shift, x))
    heads = bias.shape[0]
    q, k, v = qkv.reshape(-1, side * side, 3, heads, channels // heads).permute(2, 0, 3, 1, 4).unbind(0)
    if version == 1:
        scores = (q * (channels // heads) ** -0.5) @ k.transpose(-2, -1)
    else:
        scale = scope.constant("scale", lambda: scope.get("logit_scale").clamp(max=math.log(100)).exp())
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * scale
    scores = scores + bias
    if any(shift):
        scores = scores.unflatten(0, (n, -1)) + mask[:, None]
        scores = scores.flatten(0, 1)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    mixed = scope.at("proj").linear(mixed)
    mixed = mixed.reshape(n, rows, columns, side, side, channels).permute(0, 1, 3, 2, 4, 5)
    mixed = mixed.reshape(n, rows * side, columns * side, channels)
    return torch.roll(mixed, shift, (1, 2))[:, :height, :width]


def swin(version, depths):
    side = 7 if version == 1 else 8

    def taps(scope, x):
        features, taps = scope.at(0), []
        stem = features.at(0)
        x = F.conv2d(x, stem.at(0).get("weight"), stem.at(0).get("bias"), 4)
        x = stem.at(2).layer_norm(x.permute(0, 2, 3, 1), 1e-5)
        for stage, depth in enumerate(depths):
            if stage > 0:
                merge = features.at(2 * stage)
                x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
                x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
                reduction = merge.at("reduction").get("weight")
                if version == 1:
                    x = F.linear(merge.at("norm").layer_norm(x, 1e-5), reduction)
                else:
                    x = merge.at("norm").layer_norm(F.linear(x, reduction), 1e-5)
            for index in range(depth):
                block = features.at(2 * stage + 1, index)
                shift = side // 2 if index % 2 else 0
                norm1, norm2 = block.at("norm1"), block.at("norm2")
                layers = block.at("mlp")

                def mlp(x):
                    return layers.at(3).linear(F.gelu(layers.at(0).linear(x)))

                if version == 1:
                    x = x + window_attention(block.at("attn"), norm1.layer_norm(x, 1e-5), version, side, shift)
                    x = x + mlp(norm2.layer_norm(x, 1e-5))
                else:
                    x = x + norm1.layer_norm(window_attention(block.at("attn"), x, version, side, shift), 1e-5)
                    x = x + norm2.layer_norm(mlp(x), 1e-5)
            taps.append(x.permute(0, 3, 1, 2))
        return taps

    return taps


BACKBONES = {
    "swin_base": swin(1, (2, 2, 18, 2)),
    "swinv2_base": swin(2, (2, 2, 18, 2)),
    "swinv2_small": swin(2, (2, 2, 18, 2)),
    "swinv2_tiny": swin(2, (2, 2, 6, 2)),
    "convnext_base": convnext((3, 3, 27, 3)),
    "convnext_small": convnext((3, 3, 27, 3)),
    "convnext_true_tiny": convnext((3, 3, 9, 3)),
    "resnet": resnet,
    "mobilenet": mobilenet,
    "efficientnet": efficientnet,
}


def attention(scope, q, k, v):
    heads = 8

    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = split(scope.at("q_proj").linear(q)), split(scope.at("k_proj").linear(k)), split(scope.at("v_proj").linear(v))
    # The published scaled product, softmax and product, in PyTorch's one fused operator.
    return scope.at("out_proj").linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class SegFace(torch.nn.Module):
    """A network with seeded weights. `forward`: [N, 3, H, W] normalised, to logits [N, T, 4h, 4w]."""

    def __init__(self, backbone, dtype, device, variant="celeb"):
        super().__init__()
        self.backbone, self.variant, self.constants = backbone, variant, {}
        for name, shape in manifest(backbone, variant).items():
            weight = seeded_weight(name, shape, device).to(dtype)
            if weight.dim() == 4:
                weight = weight.contiguous(memory_format=torch.channels_last)
            self.register_buffer(name.replace(".", "__"), weight)

    def forward(self, x):
        root = Scope(self)
        taps = BACKBONES[self.backbone](root.at("backbone"), x)
        return self.decode(root, self.fuse(root, taps))

    def fuse(self, root, taps):
        size, maps = taps[0].shape[2:], []
        for index, tap in enumerate(taps):
            tokens = root.at("linear_c", index, "proj").linear(tap.flatten(2).transpose(1, 2))
            projected = tokens.transpose(1, 2).unflatten(2, tap.shape[2:])
            maps.append(projected if index == 0 else F.interpolate(projected, size=size, mode="bilinear", align_corners=False))
        return F.conv2d(torch.cat(maps[::-1], 1), root.at("linear_fuse").get("weight"))

    def decode(self, root, fused):
        decoder = root.at("face_decoder")
        transformer = decoder.at("transformer")
        n, _, height, width = fused.shape

        def class_tokens():
            return torch.cat([decoder.at(f"{name}_token").get("weight") for name in CLASSES[self.variant]], 0)[None]

        token_pe = decoder.constant("tokens", class_tokens).expand(n, -1, -1)
        pe = root.constant(f"pe {height} {width}", lambda: self.positional_encoding(root, height, width, fused))
        tokens, image = token_pe, fused.flatten(2).transpose(1, 2)
        for index in range(2):
            layer = transformer.at("layers", index)
            own = layer.at("self_attn")
            if index == 0:
                tokens = attention(own, tokens, tokens, tokens)
            else:
                placed = tokens + token_pe
                tokens = tokens + attention(own, placed, placed, tokens)
            tokens = layer.at("norm1").layer_norm(tokens, 1e-5)
            attended = attention(layer.at("cross_attn_token_to_image"), tokens + token_pe, image + pe, image)
            tokens = layer.at("norm2").layer_norm(tokens + attended, 1e-5)
            hidden = layer.at("mlp", "lin2").linear(F.relu(layer.at("mlp", "lin1").linear(tokens)))
            tokens = layer.at("norm3").layer_norm(tokens + hidden, 1e-5)
            attended = attention(layer.at("cross_attn_image_to_token"), image + pe, tokens + token_pe, tokens)
            image = layer.at("norm4").layer_norm(image + attended, 1e-5)
        attended = attention(transformer.at("final_attn_token_to_image"), tokens + token_pe, image + pe, image)
        tokens = transformer.at("norm_final_attn").layer_norm(tokens + attended, 1e-5)

        up, mlp = decoder.at("output_upscaling"), decoder.at("output_hypernetwork_mlps", "layers")
        x = image.transpose(1, 2).unflatten(2, (height, width))
        x = F.conv_transpose2d(x, up.at(0).get("weight"), up.at(0).get("bias"), 2)
        x = F.gelu(up.at(1).layer_norm_2d(x, 1e-6))
        x = F.gelu(F.conv_transpose2d(x, up.at(3).get("weight"), up.at(3).get("bias"), 2))
        hyper = mlp.at(2).linear(F.relu(mlp.at(1).linear(F.relu(mlp.at(0).linear(tokens)))))
        return (hyper @ x.flatten(2)).unflatten(2, x.shape[2:])

    @staticmethod
    def positional_encoding(root, height, width, like):
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        matrix = root.at("pe_layer").get("positional_encoding_gaussian_matrix").to(dtype)

        def centres(n):
            return (torch.arange(n, dtype=dtype, device=like.device) + 0.5) / n * 2 - 1

        y, x = torch.meshgrid(centres(height), centres(width), indexing="ij")
        phase = torch.stack([x, y], -1).reshape(-1, 2) @ matrix * (2 * math.pi)
        return torch.cat([phase.sin(), phase.cos()], -1)[None].to(like.dtype)


def network_input(batch, size, dtype, device):
    """[batch, 3, height, width]; `size` is both, or a pair."""
    height, width = (size, size) if isinstance(size, int) else size
    values = 2 * seeded("input", batch * 3 * height * width, device)
    x = values.float().to(dtype).reshape(batch, 3, height, width)
    return x.contiguous(memory_format=torch.channels_last)
