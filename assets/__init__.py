"""The Dagster assets, a module a domain; what all share is in one factory.

factory.py   a domain's source, contract, views, labels and training sets become assets
metadata.py  what every asset tells: rows, bytes, version, columns, a preview
plots.py     pictures, where one tells more than a number
lake.py      the lake as a Dagster resource
retail.py    the retail domain
"""
