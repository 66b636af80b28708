"""Generators of ECG records by rhythm: pure torch, one interface (`common.base.Generator`), one
package per generator.
"""
