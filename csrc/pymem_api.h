/* The one header between C and Python. cffi reads this very file as its cdef, so it holds plain declarations
 * only: constants as enums, opaque handles, flat structs. api.c validates every argument; nothing below it does.
 * Units: bytes, unless a name says pages (8,192 bytes) or words (8 bytes). Addresses are emulated ones. */

/* ---- status ---- */
enum pymem_status {
    PYMEM_OK = 0,
    PYMEM_ENOMEM,   /* this machine is out of memory (or a fault was injected); the heap is as before the call */
    PYMEM_ELIMIT,   /* the emulated address space is used up */
    PYMEM_EINVAL,   /* an argument out of its range */
    PYMEM_EADDRESS, /* not a live object of this heap */
    PYMEM_EBUSY,    /* another thread is inside this heap */
    PYMEM_ETHROW,   /* a broken invariant: the heap can no longer be trusted */
    PYMEM_EFORMAT   /* input that does not follow its format */
};
