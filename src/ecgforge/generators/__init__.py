"""Generators of ECG records by rhythm: pure torch, one contract (`common.base.Generator`), one
package for each.
"""
