from helpers import *
import time
def test_a(warehouse, tmp_path):
    t=time.time(); load(warehouse,tmp_path,sample_lines()); print(time.time()-t)
    t=time.time(); build(warehouse); print(time.time()-t)
    t=time.time(); build(warehouse); print(time.time()-t)
    print(checksums(warehouse)); print({k:len(v) for k,v in row_versions(warehouse).items()})
    print(mart(warehouse,"reconciliation"))
