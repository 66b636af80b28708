"""ecgforge: does synthetic ECG help an arrhythmia classifier, on your data?"""

__version__ = "0.1.0"
