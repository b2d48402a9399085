// Browsers start no Worker for a page that was opened from disk. There the search runs in a hidden frame instead.
// Material for MkDocs looks for the name IFrameWorker. mkdocs.yml names this file.
if (location.protocol === "file:") {
  self.Worker = self.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.srcdoc =
        "<script>self.postMessage = (data) => parent.postMessage(data, '*')</script>" +
        `<script src="${new URL(url, location.href)}"></script>`
      this.ready = new Promise((loaded) => this.frame.addEventListener("load", loaded))
      addEventListener("message", ({ source, data }) => {
        if (source === this.frame.contentWindow) this.dispatchEvent(new MessageEvent("message", { data }))
      })
      document.body.appendChild(this.frame)
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}
