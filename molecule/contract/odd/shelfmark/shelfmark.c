#include <Python.h>

static PyObject *mark(PyObject *self, PyObject *args)
{
    const char *text;
    unsigned int sum = 0;
    if (!PyArg_ParseTuple(args, "s", &text))
        return NULL;
    for (; *text; text++)
        sum = sum * 31 + (unsigned char)*text;
    return PyUnicode_FromFormat("%08x", sum);
}

static PyMethodDef methods[] = {{"mark", mark, METH_VARARGS, "The mark of a shelf."}, {NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "shelfmark", NULL, -1, methods};

PyMODINIT_FUNC PyInit_shelfmark(void)
{
    return PyModule_Create(&module);
}
