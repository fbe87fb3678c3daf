"""The network in torch (extra ``train``): the reference that every engine is judged by."""
