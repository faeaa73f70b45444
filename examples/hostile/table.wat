;; A table of four thousand million references.
(module
  (memory (export "memory") 1)
  (table 0xfffffff0 funcref)
  (func (export "_start")))
