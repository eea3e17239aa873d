"""Weights as leaves that know how to multiply. One file per leaf type; each has `matmul`, `grouped_matmul`, `mix`, `materialise`."""
