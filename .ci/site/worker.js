/* Pages that are opened as files may not start a worker, and the search of mkdocs-material is one: run it in a frame. */
if (location.protocol === "file:") {
  const add = (frame, url) =>
    new Promise((loaded, failed) => {
      const script = frame.document.createElement("script")
      Object.assign(script, { src: url, onload: loaded, onerror: failed })
      frame.document.head.append(script)
    })

  class IFrameWorker extends EventTarget {
    constructor(url) {
      super()
      const element = document.createElement("iframe")
      element.hidden = true
      document.body.append(element)
      const frame = (this.frame = element.contentWindow)
      frame.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      frame.importScripts = (...urls) => urls.reduce((done, next) => done.then(() => add(frame, next)), Promise.resolve())
      this.addEventListener("message", (event) => this.onmessage && this.onmessage(event))
      this.ready = add(frame, url)
    }

    postMessage(data) {
      this.ready.then(() => this.frame.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.frameElement.remove()
    }
  }

  window.IFrameWorker = window.Worker = IFrameWorker
}
