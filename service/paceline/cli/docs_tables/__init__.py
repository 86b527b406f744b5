"""Tables of the documentation that are made from the code; `make schema` writes them into the pages.

May import whatever holds the facts. Nothing of the service imports it. Start with `renew.py`.
"""
