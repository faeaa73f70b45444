;; A table that grows until it may not any more.
(module
  (memory (export "memory") 1)
  (table $references (export "table") 1 funcref)
  (func (export "_start")
    (loop $more
      (if (i32.eq (table.grow $references (ref.null func) (i32.const 10000)) (i32.const -1))
        (then (unreachable)))
      (br $more))))
