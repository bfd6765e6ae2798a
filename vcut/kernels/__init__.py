"""How a device computes fast what the networks ask for: no module, and nothing that an auditor needs to read."""
