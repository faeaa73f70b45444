;; 64 GiB of memory with 64-bit addresses.
(module
  (memory (export "memory") i64 0x100000)
  (func (export "_start")))
