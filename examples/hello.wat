;; A WASI command: greets everybody named in its inputs on stdout, which is its result, and says so on stderr, its log.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  ;; 0: argc, 4: bytes of argv, 8: an iovec, 16: bytes written, 32: texts, 1024: pointers to argv, 65536: argv itself
  (data (i32.const 32) "hello")
  (data (i32.const 40) " ")
  (data (i32.const 44) "\n")
  (data (i32.const 48) "greeting\n")

  (func $write (param $file i32) (param $at i32) (param $length i32)
    (i32.store (i32.const 8) (local.get $at))
    (i32.store (i32.const 12) (local.get $length))
    (drop (call $fd_write (local.get $file) (i32.const 8) (i32.const 1) (i32.const 16))))

  (func $length (param $at i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $at))
    (block $found
      (loop $next
        (br_if $found (i32.eqz (i32.load8_u (local.get $end))))
        (local.set $end (i32.add (local.get $end) (i32.const 1)))
        (br $next)))
    (i32.sub (local.get $end) (local.get $at)))

  (func (export "_start")
    (local $each i32)
    (local $text i32)
    (call $write (i32.const 2) (i32.const 48) (i32.const 9))
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (drop (call $args_get (i32.const 1024) (i32.const 65536)))
    (call $write (i32.const 1) (i32.const 32) (i32.const 5))
    (local.set $each (i32.const 1)) ;; argv[0] is the task's name
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $each) (i32.load (i32.const 0))))
        (local.set $text
          (i32.load (i32.add (i32.const 1024) (i32.mul (local.get $each) (i32.const 4)))))
        (call $write (i32.const 1) (i32.const 40) (i32.const 1))
        (call $write (i32.const 1) (local.get $text) (call $length (local.get $text)))
        (local.set $each (i32.add (local.get $each) (i32.const 1)))
        (br $next)))
    (call $write (i32.const 1) (i32.const 44) (i32.const 1))))
