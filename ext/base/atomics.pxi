# Small values that one thread writes while others read them without the lock. From most nothing else follows: a thread
# that reads an old one does a little work in vain. So both sides use relaxed atomics, which cost what plain loads and stores
# cost.

cdef extern from *:
    """
    static unsigned char pogfast_load_byte(const unsigned char *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static void pogfast_store_byte(unsigned char *p, unsigned char b) { __atomic_store_n(p, b, __ATOMIC_RELAXED); }
    static int pogfast_load_int(const int *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static void pogfast_store_int(int *p, int n) { __atomic_store_n(p, n, __ATOMIC_RELAXED); }
    static Py_ssize_t pogfast_load_count(const Py_ssize_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static void pogfast_store_count(Py_ssize_t *p, Py_ssize_t n) { __atomic_store_n(p, n, __ATOMIC_RELAXED); }
    /* From these something follows: all threads see them in one order. */
    static void *pogfast_load_pointer_in_order(void *const *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static void pogfast_store_pointer_in_order(void **p, void *q) { __atomic_store_n(p, q, __ATOMIC_SEQ_CST); }
    static Py_ssize_t pogfast_load_count_in_order(const Py_ssize_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static void pogfast_add_in_order(Py_ssize_t *p, Py_ssize_t n) { __atomic_fetch_add(p, n, __ATOMIC_SEQ_CST); }
    """
    u8 load_byte "pogfast_load_byte"(const u8* p) nogil
    void store_byte "pogfast_store_byte"(u8* p, u8 b) nogil
    int load_int "pogfast_load_int"(const int* p) nogil
    void store_int "pogfast_store_int"(int* p, int n) nogil
    Py_ssize_t load_count "pogfast_load_count"(const Py_ssize_t* p) nogil
    void store_count "pogfast_store_count"(Py_ssize_t* p, Py_ssize_t n) nogil
    void* load_pointer_in_order "pogfast_load_pointer_in_order"(void** p) nogil
    void store_pointer_in_order "pogfast_store_pointer_in_order"(void** p, void* q) nogil
    Py_ssize_t load_count_in_order "pogfast_load_count_in_order"(const Py_ssize_t* p) nogil
    void add_in_order "pogfast_add_in_order"(Py_ssize_t* p, Py_ssize_t n) nogil


# A slot in which one thread leaves memory for another.
cdef extern from *:
    """
    static void *pogfast_take(void **slot) { return __atomic_exchange_n(slot, NULL, __ATOMIC_ACQ_REL); }
    static int pogfast_give(void **slot, void *p) {
        void *empty = NULL;
        return __atomic_compare_exchange_n(slot, &empty, p, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    """
    void* take_pointer "pogfast_take"(void** slot) nogil            # leaves NULL
    bint give_pointer "pogfast_give"(void** slot, void* p) nogil    # False if there is one already
