"""Kernels: how a device computes fast what the networks ask for. No module, and nothing that an auditor must read."""
