"""FLOPs of products in HLO texts, by hand, and of a real scanned program against its arithmetic."""

import jax
import jax.numpy as jnp
import pytest

from moejax.planning.products import Products, products


def module(*lines, before=""):
    text = "\n".join(f"  {line}" for line in lines)
    return f"HloModule m\n\n{before}ENTRY %main (x: f32[2]) -> f32[2] {{\n{text}\n}}\n"


def test_dot_by_hand():
    # [4, 2, 3] x [4, 3, 5] over a batch of 4: 2 * (4*2*5) * 3 = 240.
    text = module(
        "%a = f32[4,2,3]{2,1,0} parameter(0)",
        "%b = f32[4,3,5]{2,1,0} parameter(1)",
        "ROOT %d = f32[4,2,5]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}",
    )
    assert products(text) == Products(240.0, 0.0, 0.0, 0)


def test_library_call_of_a_gpu():
    text = module(
        "%a = bf16[6,3]{1,0} parameter(0)",
        "%b = bf16[3,5]{1,0} parameter(1)",
        '%d = (bf16[6,5]{1,0}, s8[64]) custom-call(%a, %b), custom_call_target="__cublas$gemm", '
        'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}',
    )
    assert products(text).dense == 2 * 6 * 5 * 3


def test_convolution_by_hand():
    # 5 numbers, a window of 3 with one of padding on each side: 3 * 5 pairs, of which 2 meet padding. 2 * 13 * 4 * 6 * 2.
    line = "%c = f32[2,5,6]{2,1,0} convolution(%a, %b), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f"
    text = module("%a = f32[2,5,4]{2,1,0} parameter(0)", "%b = f32[3,4,6]{2,1,0} parameter(1)", line)
    assert products(text).dense == 2 * 13 * 4 * 6 * 2


@pytest.mark.parametrize(
    ("target", "given", "result"),
    [
        ("convForward", ("f32[2,5,4]", "f32[3,4,6]"), "f32[2,5,6]"),
        ("convBackwardFilter", ("f32[2,5,4]", "f32[2,5,6]"), "f32[3,4,6]"),
        ("convBackwardInput", ("f32[2,5,6]", "f32[3,4,6]"), "f32[2,5,4]"),
    ],
)
def test_library_convolutions_of_a_gpu(target, given, result):
    lines = [
        f"%{name} = {shape}{{2,1,0}} parameter({i})" for i, (name, shape) in enumerate(zip("ab", given, strict=True))
    ]
    call = f"%c = ({result}{{2,1,0}}, u8[16]{{0}}) custom-call(%a, %b), window={{size=3 pad=1_1}}, dim_labels=b0f_0io->b0f, "
    assert products(module(*lines, f'{call}custom_call_target="__cudnn${target}"')).dense == 2 * 13 * 4 * 6 * 2


def test_batched_product_as_a_tpu_writes_it():
    # A batch of 32 x 16 matrices [257, 80] x [80, 257], over a dilated window that meets each matrix once.
    line = (
        "%c = bf16[32,16,257,257]{2,3,1,0} convolution(%a, %b), window={size=32x16 stride=31x15 lhs_dilate=32x16}, "
        "dim_labels=01bf_01oi->01bf"
    )
    text = module(
        "%a = bf16[32,16,257,80]{3,2,1,0} parameter(0)", "%b = bf16[32,16,257,80]{3,2,1,0} parameter(1)", line
    )
    assert products(text).dense == 2 * 32 * 16 * 257 * 257 * 80


def test_kernels_compute_the_rows_that_are_there():
    kernel = (
        '%k = bf16[64,8]{1,0} custom-call(%s, %a, %b), custom_call_target="tpu_custom_call", metadata={op_name="x/NAME/y"}, '
        'backend_config={"custom_call_config":{"cost_estimate":{"flops":"6400","transcendentals":"0"}}}'
    )
    given = ("%s = s32[2]{0} parameter(0)", "%a = bf16[64,4]{1,0} parameter(1)", "%b = bf16[2,4,8]{2,1,0} parameter(2)")
    assert products(module(*given, kernel)) == Products(0.0, 6400.0, 0.0, 0)
    assert products(module(*given, kernel), rows=16).total == 1600
    assert products(module(*given, kernel), rows=100).total == 6400
    again = kernel.replace("NAME", "rematted_computation")
    assert products(module(*given, again), rows=16) == Products(0.0, 1600.0, 1600.0, 0)
    silent = kernel.replace('"cost_estimate":{"flops":"6400","transcendentals":"0"}', "")
    assert products(module(*given, silent)) == Products(0.0, 0.0, 0.0, 1)
    assert products(module(*given, silent)).total is None


def test_scanned_layers_count_as_often_as_there_are():
    def loss(kernels, x):
        body = jax.checkpoint(lambda x, kernel: (jnp.tanh(x @ kernel), None), prevent_cse=False)
        return jnp.sum(jax.lax.scan(body, x, kernels)[0])

    shapes = jax.ShapeDtypeStruct((5, 16, 16), jnp.float32), jax.ShapeDtypeStruct((8, 16), jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(*shapes).compile()
    # Per layer the forward product, the same again in the backward pass, and one for the gradient of each factor.
    once = 2 * 8 * 16 * 16
    assert products(compiled.as_text()) == Products(5.0 * 4 * once, 0.0, 5.0 * once, 0)
    costs = compiled.cost_analysis()
    assert (costs[0] if isinstance(costs, list) else costs)["flops"] < 5 * 4 * once  # why it is not taken from there
